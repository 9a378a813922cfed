"""The templates of the house; importing this package registers them."""

from hcompile.schedules.templates import hopper_prefill, triton_decode, triton_prefill, tvm_cpu_attention

__all__ = ["hopper_prefill", "triton_decode", "triton_prefill", "tvm_cpu_attention"]
