"""The space of the decode kernel (`hcompile.codegen.triton_gpu.kernels.decode`)."""

from __future__ import annotations

from collections.abc import Mapping

from hcompile.errors import KernelError
from hcompile.schedules.axis import Axis
from hcompile.schedules.space import Space
from hcompile.schedules.template import GpuProblem, Template, register_template
from hcompile.schedules.templates.gpu_tiles import ELEMENT_BYTES, padded_head, supports, tile_pairs

NAME = "triton_decode"
MOST_ROWS = 64
"""Query heads of a KV head times queries, at most."""

# A search has every schedule compiled before it measures the first, so the space leaves out what can hardly win. What
# is left out was not measured; what was good on one H200 (benchmarks/gpu_decode.py) is all within.
LEAST_SHARE, MOST_SHARE = 16, 32
"""Keys of a block for each warp. The matrix unit takes 8 keys at a time: with one such piece a warp, what warps
exchange weighs as much as what they compute; above the most, a block is loaded by too few threads."""
EARLY_SPLITS = range(6, 17)
"""An early start saves a microsecond or two, which shows in short calls only: windows of few sequences, whose blocks
are shared by this many programs. With fewer programs there are many sequences, with more a long cache."""

_AXES = (
    Axis("keys", (32, 64, 128), "keys of a block"),
    Axis("splits", (1, 2, 3, 4, 6, 9, 16, 32, 64), "programs that share the keys of a KV head"),
    Axis("warps", (2, 4, 8), "warps of a program"),
    Axis("stages", (2, 3, 4), "blocks that are loaded ahead"),
    Axis(
        "early",
        (0, 1),
        "whether programs start while the kernel before them ends; they wait where they need it",
    ),
)


def space(problem: GpuProblem) -> Space:
    """Return the legal schedules of a problem that the template supports. Raises: KernelError when none fits."""
    head = padded_head(problem.head_dim)

    def legal(v: Mapping[str, int]) -> bool:
        fits = ELEMENT_BYTES * head * (2 * v["stages"] * v["keys"] + MOST_ROWS) <= problem.shared_bytes
        shared_well = LEAST_SHARE <= v["keys"] // v["warps"] <= MOST_SHARE
        may_start = not v["early"] or (problem.capability >= 90 and v["splits"] in EARLY_SPLITS)
        return fits and shared_well and may_start

    default = {"keys": 128, "splits": 9, "warps": 8, "stages": 3, "early": 0}
    # Good on one H200 for a window of many sequences, and for the whole cache of as many.
    window = {"keys": 32, "splits": 1, "warps": 2, "stages": 3, "early": 0}
    whole = default | {"splits": 1}
    smaller: tuple[dict[str, int], ...] = (
        {},
        {"stages": 2},
        {"keys": 64, "warps": 4, "stages": 2},
        {"keys": 32, "warps": 2, "stages": 2},
    )
    fitting = next((default | change for change in smaller if legal(default | change)), None)
    if fitting is None:
        raise KernelError(
            f"no decode kernel for heads of {problem.head_dim} in {problem.shared_bytes} shared bytes"
        )
    return Space(NAME, _AXES, legal, tuple(fitting.items()), (tuple(window.items()), tuple(whole.items())))


register_template(Template(NAME, supports, space, tile_pairs))
