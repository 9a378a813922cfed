"""The space of the Hopper prefill kernel (`hcompile.codegen.triton_gpu.kernels.hopper_prefill`)."""

from __future__ import annotations

from collections.abc import Mapping

from hcompile.errors import KernelError
from hcompile.patterns.blocks import LIST_BLOCK, LIST_QUERIES
from hcompile.schedules.axis import Axis
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.space import Space
from hcompile.schedules.template import GpuProblem, Template, register_template
from hcompile.schedules.templates.gpu_tiles import ELEMENT_BYTES, padded_head, registers, supports, tile_pairs

NAME = "hopper_prefill"
MOST_REGISTERS = 192
"""Of a thread for matrices; 240 are there, and softmax and addresses take some 40."""
BARRIER_BYTES = 1024
"""Barriers and the ring of tasks, with room for alignment."""

_AXES = (
    Axis("rows", (128, 256), "queries of a tile, half of them a warpgroup's"),
    Axis("keys", (64, 128), "keys of a block"),
    Axis("stages", (2, 3, 4, 5, 6, 8), "blocks of K, and of V, in shared memory"),
    Axis("turns", (0, 1), "whether the warpgroups issue their products in turns"),
    Axis(
        "hold_q",
        (0, 1),
        "whether queries stand in registers, and their place is filled for the next tile at once",
    ),
    Axis("share", (0, 1), "whether the output leaves through the place of the queries"),
)

# Good on one H200 for dense heads and windows of 1024 and more, for heads of more than 128, and for narrower windows.
_WIDE = {"rows": 128, "keys": 128, "stages": 2, "turns": 1, "hold_q": 0, "share": 0}
_WIDE_HEADS = _WIDE | {"keys": 64, "turns": 0, "share": 1}
_NARROW = {"rows": 128, "keys": 64, "stages": 5, "turns": 0, "hold_q": 1, "share": 0}


def reads_lists(schedule: Schedule) -> bool:
    """Return whether a schedule's tiles are those of lists of key blocks."""
    return (schedule["rows"], schedule["keys"]) == (LIST_QUERIES, LIST_BLOCK)


def list_schedule(head_dim: int) -> Schedule:
    """Return a schedule whose tiles are those of lists."""
    return Schedule.of(NAME, _WIDE_HEADS if padded_head(head_dim) > 128 else _NARROW)


def list_space(problem: GpuProblem) -> Space:
    """Return the part of `space` whose tiles are those of lists. Raises: KernelError as `space` does."""
    whole = space(problem)

    def legal(v: Mapping[str, int]) -> bool:
        return (v["rows"], v["keys"]) == (LIST_QUERIES, LIST_BLOCK) and whole.legal(v)

    return Space(NAME, _AXES, legal, list_schedule(problem.head_dim).values)


def space(problem: GpuProblem) -> Space:
    """Return the legal schedules of a problem that the template supports.

    Raises:
        KernelError: the GPU is no Hopper.
    """
    if problem.capability // 10 != 9:
        raise KernelError(f"no Hopper kernel on sm_{problem.capability}: use triton_prefill")
    head = padded_head(problem.head_dim)

    def legal(v: Mapping[str, int]) -> bool:
        tiles = v["rows"] * (1 if v["share"] else 2) + 2 * v["stages"] * v["keys"]
        return (
            not (v["hold_q"] and v["share"])
            and registers(v, head) <= MOST_REGISTERS
            and ELEMENT_BYTES * head * tiles + BARRIER_BYTES <= problem.shared_bytes
        )

    default = _WIDE
    if head <= 64:
        default = _WIDE | {"stages": 4, "turns": 0, "hold_q": 1}
    elif head > 128:
        default = _WIDE_HEADS
    return Space(NAME, _AXES, legal, tuple(default.items()), (tuple(_NARROW.items()),))


register_template(Template(NAME, supports, space, tile_pairs))
