"""The table of code generators, and of the targets that a user names."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import cast

from hcompile.codegen.backend import Backend
from hcompile.errors import UsageError

_BACKENDS = {
    "tvm_cpu": "hcompile.codegen.tvm_cpu.backend:BACKEND",
    "hopper_prefill": "hcompile.codegen.triton_gpu.backend:HOPPER_PREFILL",
    "triton_prefill": "hcompile.codegen.triton_gpu.backend:TRITON_PREFILL",
    "triton_decode": "hcompile.codegen.triton_gpu.backend:TRITON_DECODE",
    "torch_sdpa": "hcompile.codegen.torch_gpu.backend:BACKEND",
    "flash_attn_4": "hcompile.codegen.flash_attn_4.backend:BACKEND",
    "cuda": "hcompile.codegen.cuda:BACKEND",
}
TARGETS = {"cpu": "tvm_cpu", "cuda": "cuda"}
"""The code generator of each target."""


@cache
def get_backend(name: str) -> Backend:
    """Return a code generator by its name, or one of another package as `package.module:attribute`.

    Raises:
        UsageError: there is none of this name.
    """
    module, _, attribute = _BACKENDS.get(name, name).partition(":")
    if not attribute:
        raise UsageError(f"kernel backend {name!r} is unknown: choose one of {', '.join(_BACKENDS)}")
    try:
        return cast(Backend, getattr(import_module(module), attribute))
    except (ImportError, AttributeError) as error:
        raise UsageError(f"kernel backend {name!r} cannot be loaded ({error}): check its name") from error
