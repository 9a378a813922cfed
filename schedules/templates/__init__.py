"""The templates of the house; importing this package registers them."""

from hcompile.schedules.templates import tvm_cpu_attention

__all__ = ["tvm_cpu_attention"]
