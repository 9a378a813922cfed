"""The templates of the house; importing this package registers them."""

from hcompile.schedules.templates import (
    flash_attn_4,
    hopper_prefill,
    torch_sdpa,
    triton_decode,
    triton_prefill,
    tvm_cpu_attention,
)

__all__ = [
    "flash_attn_4",
    "hopper_prefill",
    "torch_sdpa",
    "triton_decode",
    "triton_prefill",
    "tvm_cpu_attention",
]
