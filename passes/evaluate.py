"""Evaluating parts of a graph on real numbers: the means by which passes prove what a subgraph computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

Size = int | torch.SymInt


class NotUnderstood(Exception):
    """A part of the graph cannot be shown to compute what the operator computes; the message is the reason."""


class Evaluator:
    """Computes nodes of a graph for chosen sizes, from chosen values of some nodes.

    Sizes are read from the nodes' metadata and never computed, so that asking for a mask runs none of the layers.
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        sizes: Mapping[str, int],
        given: Mapping[Node, torch.Tensor],
    ) -> None:
        self._tensors = tensors
        self._sizes = sizes
        self._values: dict[Node, Any] = dict(given)

    def value(self, node: Node) -> Any:
        """Return the value of `node`.

        Raises:
            NotUnderstood: it rests on an input that is not given, or an operator does not take the chosen sizes.
        """
        if node not in self._values:
            self._values[node] = self._compute(node)
        return self._values[node]

    def tensor(self, node: Node) -> torch.Tensor:
        found: torch.Tensor = self.value(node)
        return found

    def _compute(self, node: Node) -> Any:
        if is_size(node):
            return concrete(node.meta["val"], self._sizes)
        if node.op == "get_attr":
            return self._tensors[str(node.target)]
        if node.op == "placeholder":
            raise NotUnderstood(f"it depends on the input {node.name}")
        arguments = map_arg(node.args, self.value)
        named = map_arg(node.kwargs, self.value)
        assert callable(node.target)
        with torch.no_grad(), _refused_sizes(node):
            return node.target(*arguments, **named)


@contextlib.contextmanager
def _refused_sizes(node: Node) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, IndexError) as error:
        line = next(iter(str(error).splitlines()), "")
        raise NotUnderstood(f"{node.name} cannot be evaluated by itself ({line})") from error


def is_size(node: Node) -> bool:
    """Whether the node computes a size, or a number made of sizes, rather than a tensor."""
    return isinstance(node.meta.get("val"), (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool))


def concrete(size: Any, sizes: Mapping[str, int]) -> Any:
    """Return a size as a number, its symbols replaced by `sizes`."""
    if isinstance(size, (int, float)):
        return size
    expression = size.node.expr
    try:
        number = expression.subs({symbol: sizes[str(symbol)] for symbol in expression.free_symbols})
    except KeyError as error:
        raise NotUnderstood(f"the size {expression} depends on values") from error
    except ZeroDivisionError as error:
        raise NotUnderstood(f"the size {expression} cannot be computed for small sizes") from error
    kinds = {torch.SymInt: int, torch.SymFloat: float, torch.SymBool: bool}
    return kinds[type(size)](number)


def symbols_of(size: Size) -> frozenset[str]:
    """Return the names of the symbols that a size is made of."""
    return frozenset() if isinstance(size, int) else frozenset(map(str, size.node.expr.free_symbols))


def same_size(one: Size, other: Size) -> bool:
    """Whether two sizes are equal for every value of their symbols."""
    if isinstance(one, int) or isinstance(other, int):
        return isinstance(one, int) and isinstance(other, int) and one == other
    return bool(one.node.expr == other.node.expr)


def shape_of(node: Node) -> tuple[Size, ...]:
    """Return the shape of a tensor node, symbols and all; sizes that turned out fixed are integers."""
    return tuple(
        size if isinstance(size, int) or not size.node.expr.is_Integer else int(size.node.expr)
        for size in node.meta["val"].shape
    )


def operator_name(node: Node) -> str:
    """Return an operator's name without namespace and overload, such as `matmul`; "" for anything else."""
    target = node.target
    return target._opname if isinstance(target, torch._ops.OpOverload) else ""


def scalar_of(value: Any, tensors: Mapping[str, torch.Tensor]) -> float | None:
    """Return the number that an operand is, or None where it is no constant number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if (
        isinstance(value, Node)
        and isinstance(value.meta.get("val"), torch.Tensor)
        and value.meta["val"].dim() == 0
    ):
        try:
            return float(Evaluator(tensors, {}, {}).tensor(value))
        except NotUnderstood:
            return None
    return None
