"""GPU kernels from Triton templates: prefill (portable, and one for Hopper) and decode."""
