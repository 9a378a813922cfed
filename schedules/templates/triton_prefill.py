"""The space of the portable prefill kernel (`hcompile.codegen.triton_gpu.kernels.prefill`)."""

from __future__ import annotations

from collections.abc import Mapping

from hcompile.errors import KernelError
from hcompile.schedules.axis import Axis
from hcompile.schedules.space import Space
from hcompile.schedules.template import GpuProblem, Template, register_template
from hcompile.schedules.templates.gpu_tiles import ELEMENT_BYTES, padded_head, supports, tile_pairs

NAME = "triton_prefill"

_AXES = (
    Axis("rows", (64, 128), "queries of a tile"),
    Axis("keys", (32, 64, 128), "keys of a block"),
    Axis("warps", (4, 8), "warps of a program"),
    Axis("stages", (1, 2, 3, 4), "blocks in shared memory"),
)


def space(problem: GpuProblem) -> Space:
    """Return the legal schedules of a problem that the template supports. Raises: KernelError when none fits."""
    head = padded_head(problem.head_dim)

    def legal(v: Mapping[str, int]) -> bool:
        # The compiler keeps the queries, the blocks under way, and at times a block of weights.
        tiles = v["rows"] * head + 2 * v["stages"] * v["keys"] * head + v["rows"] * v["keys"]
        accumulators = v["rows"] * (head + v["keys"]) // (32 * v["warps"])
        return ELEMENT_BYTES * tiles <= problem.shared_bytes and accumulators <= 192

    smaller: tuple[dict[str, int], ...] = (
        {},
        {"stages": 2},
        {"rows": 64, "keys": 32, "stages": 2},
        {"rows": 64, "keys": 32, "stages": 1},
    )
    defaults = ({"rows": 128, "keys": 64, "warps": 8, "stages": 3} | change for change in smaller)
    default = next((each for each in defaults if legal(each)), None)
    if default is None:
        raise KernelError(
            f"no prefill kernel for heads of {problem.head_dim} in {problem.shared_bytes} shared bytes"
        )
    return Space(NAME, _AXES, legal, tuple(default.items()))


register_template(Template(NAME, supports, space, tile_pairs))
