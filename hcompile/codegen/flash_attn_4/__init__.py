"""FlashAttention-4 (package flash-attn-4, CuTe DSL) as a code generator like any other, where it is installed."""
