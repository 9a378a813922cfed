"""The space of FlashAttention-4: what its public function leaves to its caller. It chooses tiles itself."""

from __future__ import annotations

from hcompile.errors import KernelError
from hcompile.patterns import Pattern
from hcompile.schedules.axis import Axis
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.space import Space
from hcompile.schedules.template import GpuProblem, Template, register_template
from hcompile.schedules.templates.gpu_tiles import supports

NAME = "flash_attn_4"
HOPPER, BLACKWELL = 9, 10
"""What a compute capability begins with: the package's kernels for these have its name, others are older ones."""


def space(problem: GpuProblem) -> Space:
    """Return how it can be called. Raises: KernelError when it has no kernel for the GPU or the head size."""
    family = problem.capability // 10
    if family not in (HOPPER, BLACKWELL):
        raise KernelError(f"no FlashAttention-4 for sm_{problem.capability}: use triton_prefill")
    if family == BLACKWELL and 128 < problem.head_dim != 256:
        raise KernelError(f"no FlashAttention-4 for heads of {problem.head_dim} on sm_{problem.capability}")
    axes = (
        Axis("pack_gqa", (0, 1), "whether a tile's rows are of all query heads of a KV head"),
        Axis("splits", (1,) if family == HOPPER else (0, 1), "parts of the keys; 0: as its own rule says"),
    )
    return Space(NAME, axes, lambda _: True, (("pack_gqa", 1), ("splits", 1)))


def tile_pairs(schedule: Schedule, pattern: Pattern, q_len: int, kv_len: int, *, causal: bool) -> int:
    """Count the pairs of a head; the library's tiles are not known."""
    return pattern.visited_pairs(q_len, kv_len, causal=causal)


register_template(Template(NAME, supports, space, tile_pairs))
