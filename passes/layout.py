"""Where Q, K and V of an attention come from: data movement is undone by evaluating it on indices.

An operand of attention is often a moved copy of what the model computed: heads split off and batch-major rows merged
(`nn.MultiheadAttention`), KV heads repeated for their query heads. To find the tensor behind it, the moving nodes are
run on a tensor that holds its own indices; where each element lands shows which head of which row it is, whatever the
nodes look like.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from hcompile.passes.evaluate import (
    Evaluator,
    NotUnderstood,
    Size,
    concrete,
    operator_name,
    scalar_of,
    shape_of,
)

MOVES = frozenset(
    "alias clone contiguous detach expand flatten permute repeat repeat_interleave reshape select slice squeeze "
    "transpose t unflatten unsafe_view _unsafe_view unsqueeze view lift_fresh_copy".split()
)
"""Operators that move elements and compute nothing."""

_aten = torch.ops.aten
_LAYOUTS: dict[str, tuple[int, tuple[int, int, int, int] | None]] = {
    # name: rank of the source, and the permutation that makes [B, H, S, D] of it once heads are split off.
    "bhsd": (4, None),
    "bshd": (4, (0, 2, 1, 3)),
    "bs(hd)": (3, (0, 2, 1, 3)),
    "sb(hd)": (3, (1, 2, 0, 3)),
}


@dataclass(frozen=True, slots=True)
class Heads:
    """A tensor that holds the heads of an operand.

    Attributes:
        source: the node.
        layout: how its dimensions read, a key of `_LAYOUTS`.
        count: number of heads in it.
        repeats: how often each of them stands in the operand, side by side.
        factor: what the operand is multiplied with on the way.
        batch, length, head_dim: the other sizes.
    """

    source: Node
    layout: str
    count: int
    repeats: int
    factor: float
    batch: Size
    length: Size
    head_dim: int

    def emit(self, graph: Graph, before: Node) -> Node:
        """Return a node of `[B, H, S, D]`, made of views of the source."""
        node = self.source
        rank, order = _LAYOUTS[self.layout]
        with graph.inserting_before(before):
            if rank == 3:
                node = call(graph, _aten.unflatten.int, node, -1, [self.count, self.head_dim])
            if order is not None:
                node = call(graph, _aten.permute.default, node, list(order))
        return node


@dataclass(frozen=True, slots=True)
class Probe:
    """What moves are evaluated with: the tensors, and sizes by symbol, chosen so that no size passes for another."""

    tensors: Mapping[str, torch.Tensor]
    sizes: tuple[Mapping[str, int], ...]


def find_heads(operand: Node, probe: Probe, *, scaled: bool) -> list[Heads]:
    """Return the tensors that hold the heads of an operand `[B, H, S, D]` or `[B * H, S, D]`, nearest first.

    Args:
        scaled: whether multiplications by a number may be taken off the operand.
    """
    found = []
    for source, factor in _sources(operand, probe.tensors, scaled):
        for layout, count, batch, length in _readings(operand, source):
            repeats = _repeats(operand, source, layout, count, batch, length, factor, probe)
            if repeats:
                head_dim = int(shape_of(operand)[-1])
                found.append(Heads(source, layout, count, repeats, factor, batch, length, head_dim))
    return found


def call(graph: Graph, target: torch._ops.OpOverload, node: Node, *arguments: Any) -> Node:
    """Insert a call on one tensor, with the metadata of its result."""
    made = graph.call_function(target, (node, *arguments))
    made.meta["val"] = target(node.meta["val"], *arguments)
    return made


def _sources(
    operand: Node, tensors: Mapping[str, torch.Tensor], scaled: bool
) -> Iterator[tuple[Node, float]]:
    node, factor = operand, 1.0
    while True:
        yield node, factor
        name = operator_name(node)
        if name in MOVES:
            node = node.all_input_nodes[0]
        elif scaled and name in ("mul", "div") and len(node.args) == 2 and isinstance(node.args[0], Node):
            number = scalar_of(node.args[1], tensors)
            if not number:
                return
            factor = factor * number if name == "mul" else factor / number
            node = node.args[0]
        else:
            return


def _readings(operand: Node, source: Node) -> Iterator[tuple[str, int, Size, Size]]:
    """Yield the ways in which the dimensions of `source` could read: layout, head count, batch and length."""
    value, head_dim = source.meta.get("val"), shape_of(operand)[-1]
    if (
        not isinstance(value, torch.Tensor)
        or value.dtype != operand.meta["val"].dtype
        or not isinstance(head_dim, int)
        or head_dim < 1
    ):
        return
    for layout, (rank, _) in _LAYOUTS.items():
        if value.dim() != rank:
            continue
        size = dict(zip(layout.replace("(hd)", "e"), shape_of(source), strict=True))
        width = size.get("e", 0)
        count = size.get("h", width // head_dim if isinstance(width, int) else 0)
        if isinstance(count, int) and count > 0:
            yield layout, count, size["b"], size["s"]


def _repeats(
    operand: Node,
    source: Node,
    layout: str,
    count: int,
    batch: Size,
    length: Size,
    factor: float,
    probe: Probe,
) -> int:
    """Return n where element (b, h, s, d) of the operand is (b, h // n, s, d) of the source in every probe, or 0."""
    _, order = _LAYOUTS[layout]
    repeats = 0
    for sizes in probe.sizes:
        try:
            shape = [int(concrete(size, sizes)) for size in shape_of(source)]
            if min(shape) < 1:  # an empty tensor shows nothing
                return 0
            index = torch.arange(math.prod(shape), dtype=torch.float64).view(shape)
            moved = Evaluator(probe.tensors, sizes, {source: index}).tensor(operand) / factor
            rows, steps = int(concrete(batch, sizes)), int(concrete(length, sizes))
        except NotUnderstood:
            return 0
        head_dim = moved.shape[-1]
        if min(rows, steps, head_dim) < 1:
            return 0
        repeats = moved.numel() // (rows * count * steps * head_dim)
        heads = repeats * count
        wanted = (rows, heads, steps, head_dim) if moved.dim() == 4 else (rows * heads, steps, head_dim)
        if not heads or tuple(moved.shape) != wanted:
            return 0
        split = index if index.dim() == 4 else index.unflatten(-1, (count, head_dim))
        expected = (split if order is None else split.permute(order)).repeat_interleave(repeats, dim=1)
        if not torch.equal(moved.round().view(rows, heads, steps, head_dim), expected):
            return 0
    return repeats
