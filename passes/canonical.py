"""One spelling for products: `baddbmm` and two-operand `einsum` as matmul and its surroundings, for matching only.

What a matcher does not raise goes back to how it was written.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from hcompile.passes.evaluate import operator_name
from hcompile.passes.layout import call

_aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Spelling:
    """A node as it was, the product that is written for it, and the value that stands in its place."""

    node: Node
    product: Node
    value: Node


def respell(graph: Graph) -> list[Spelling]:
    """Write products in one way; `restore` goes back. The nodes as they were stay in the graph, without users."""
    spellings = []
    for node in list(graph.nodes):
        with graph.inserting_before(node):
            spelling = _SPELLERS.get(operator_name(node), _as_it_is)(graph, node)
        if spelling is not None:
            node.replace_all_uses_with(spelling.value)
            if "nn_module_stack" in node.meta:
                spelling.value.meta["nn_module_stack"] = node.meta["nn_module_stack"]
                spelling.product.meta["nn_module_stack"] = node.meta["nn_module_stack"]
            spellings.append(spelling)
    return spellings


def restore(spellings: Iterable[Spelling], raised: Container[Node]) -> None:
    """Put every node back whose product was not raised."""
    for spelling in spellings:
        if spelling.product not in raised:
            spelling.value.replace_all_uses_with(spelling.node)


def _as_it_is(graph: Graph, node: Node) -> None:
    return None


def _baddbmm(graph: Graph, node: Node) -> Spelling:
    arguments: tuple[Any, ...] = node.args
    added, left, right = arguments[:3]
    alpha, beta = node.kwargs.get("alpha", 1), node.kwargs.get("beta", 1)
    product = value = _pair(graph, _aten.bmm.default, left, right)
    if alpha != 1:
        value = call(graph, _aten.mul.Tensor, value, alpha)
    if beta != 0:
        term = added if beta == 1 else call(graph, _aten.mul.Tensor, added, beta)
        value = _pair(graph, _aten.add.Tensor, value, term)
    return Spelling(node, product, value)


def _einsum(graph: Graph, node: Node) -> Spelling | None:
    """Return the product that an equation such as `bqhd,bkhd->bhqk` is, or None where it is no matrix product."""
    arguments: tuple[Any, ...] = node.args
    equation, operands = arguments[:2]
    terms, arrow, out = equation.replace(" ", "").partition("->")
    letters = terms.split(",")
    if (
        not arrow
        or len(letters) != 2
        or any(len(set(term)) != len(term) or "." in term for term in (*letters, out))
    ):
        return None
    left, right = letters
    shared = [letter for letter in out if letter in left and letter in right]
    rows = [letter for letter in left if letter not in right]
    columns = [letter for letter in right if letter not in left]
    summed = [letter for letter in left if letter in right and letter not in out]
    if len(rows) != 1 or len(columns) != 1 or len(summed) != 1 or {*shared, *rows, *columns} != set(out):
        return None
    a = _permute(graph, operands[0], left, [*shared, *rows, *summed])
    b = _permute(graph, operands[1], right, [*shared, *summed, *columns])
    product = _pair(graph, _aten.matmul.default, a, b)
    return Spelling(node, product, _permute(graph, product, [*shared, *rows, *columns], out))


def _permute(graph: Graph, node: Node, letters: Sequence[str], wanted: Sequence[str]) -> Node:
    order = [letters.index(letter) for letter in wanted]
    return node if order == sorted(order) else call(graph, _aten.permute.default, node, order)


def _pair(graph: Graph, target: torch._ops.OpOverload, one: Node, other: Node) -> Node:
    made = graph.call_function(target, (one, other))
    made.meta["val"] = target(one.meta["val"], other.meta["val"])
    return made


_SPELLERS: dict[str, Callable[[Graph, Node], Spelling | None]] = {"baddbmm": _baddbmm, "einsum": _einsum}
