"""The target `cuda`: our kernels for NVIDIA GPUs, and libraries', which compete where they have one."""

from hcompile.codegen.competing import Competing

BACKEND = Competing(
    "cuda", ("hopper_prefill", "triton_prefill", "triton_decode", "torch_sdpa", "flash_attn_4")
)
