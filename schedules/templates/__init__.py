"""The templates of the house; importing this package registers them."""

from hcompile.schedules.templates import (
    hopper_prefill,
    torch_sdpa,
    triton_decode,
    triton_prefill,
    tvm_cpu_attention,
)

__all__ = ["hopper_prefill", "torch_sdpa", "triton_decode", "triton_prefill", "tvm_cpu_attention"]
