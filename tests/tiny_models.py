"""Random models small enough for every test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


def tiny_llama_model(**sizes: Any) -> LlamaForCausalLM:
    """Return a Llama of one layer with 2 query heads over 64 ids, but for what `sizes` says of its configuration."""
    from transformers import LlamaConfig, LlamaForCausalLM

    usual = {
        "vocab_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
    }
    return LlamaForCausalLM(LlamaConfig(**{**usual, **sizes})).eval()
