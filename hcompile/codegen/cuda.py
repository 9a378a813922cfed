"""The target `cuda`: our kernels for NVIDIA GPUs, and the library's, which compete where it has one."""

from hcompile.codegen.competing import Competing

BACKEND = Competing("cuda", ("hopper_prefill", "triton_prefill", "triton_decode", "torch_sdpa"))
