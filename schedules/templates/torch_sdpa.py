"""The space of the library's attention: which of torch's implementations computes a dense node."""

from __future__ import annotations

from hcompile.errors import KernelError
from hcompile.patterns import Pattern
from hcompile.schedules.axis import Axis
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.space import Space
from hcompile.schedules.template import GpuProblem, Template, register_template
from hcompile.schedules.templates.gpu_tiles import supports

NAME = "torch_sdpa"
FLASH, CUDNN = 0, 1

_AXES = (Axis("library", (FLASH, CUDNN), "0: FlashAttention-2, 1: cuDNN"),)


def space(problem: GpuProblem) -> Space:
    """Return both. Raises: KernelError when the GPU is older than they want."""
    if problem.capability < 80:
        raise KernelError(f"torch has no fast attention on sm_{problem.capability}: use triton_prefill")
    return Space(NAME, _AXES, lambda _: True, (("library", FLASH),))


def tile_pairs(schedule: Schedule, pattern: Pattern, q_len: int, kv_len: int, *, causal: bool) -> int:
    """Count the pairs of a head; the library's tiles are not known."""
    return pattern.visited_pairs(q_len, kv_len, causal=causal)


register_template(Template(NAME, supports, space, tile_pairs))
