"""Finding decomposed attention: two products with a softmax between them, by subgraph matching.

The graph is first reduced to a skeleton of products and softmaxes, whose edges stand for everything that may lie
between (scaling, masking, casts, moves); attention is a path of three nodes in it. What lies between is judged later,
by evaluating it.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import networkx
import torch
from torch.fx import Graph, Node

from hcompile.passes.candidate import Candidate
from hcompile.passes.evaluate import operator_name, scalar_of
from hcompile.passes.layout import MOVES

_PRODUCTS = frozenset({"matmul", "bmm"})
_SOFTMAXES = frozenset({"softmax", "_softmax"})
_CASTS = frozenset({"_to_copy", "to"})
_SCALINGS = frozenset({"mul", "div"})
_MASKINGS = frozenset({"add", "sub", "masked_fill", "where", "maximum"})
_BENDING = frozenset(
    {"tanh", "clamp", "clamp_min", "clamp_max", "minimum", "relu", "sigmoid", "pow", "exp", "abs"}
)
_DROPOUTS = frozenset({"dropout", "native_dropout"})
_PARTS = frozenset({"getitem"})
_BETWEEN = MOVES | _CASTS | _SCALINGS | _MASKINGS | _BENDING | _DROPOUTS | _PARTS


@dataclass(frozen=True, slots=True)
class _Edge:
    """A way from one node of the skeleton to the next: the operand it enters, and the nodes between."""

    operand: int
    between: tuple[Node, ...]


def match_eager(
    graph: Graph, tensors: Mapping[str, torch.Tensor], retired: Collection[Node] = ()
) -> list[Candidate]:
    """Return every decomposed attention of a graph, in execution order.

    Args:
        retired: nodes that do not count as users, because others stand in for them.
    """
    skeleton = _skeleton(graph)
    pattern = networkx.DiGraph()
    pattern.add_node("scores", kind="product")
    pattern.add_node("softmax", kind="softmax")
    pattern.add_node("output", kind="product")
    pattern.add_edge("scores", "softmax", operand=0)
    pattern.add_edge("softmax", "output", operand=0)
    matcher = networkx.algorithms.isomorphism.DiGraphMatcher(
        skeleton,
        pattern,
        node_match=lambda found, wanted: found["kind"] == wanted["kind"],
        edge_match=lambda found, wanted: found["edge"].operand == wanted["operand"],
    )
    places = {node: place for place, node in enumerate(graph.nodes)}
    matches = [
        {role: node for node, role in match.items()} for match in matcher.subgraph_monomorphisms_iter()
    ]
    matches.sort(key=lambda match: places[match["output"]])
    return [_candidate(match, skeleton, tensors, retired) for match in matches if _is_attention(match)]


def _skeleton(graph: Graph) -> networkx.DiGraph:
    skeleton = networkx.DiGraph()
    for node in graph.nodes:
        kind = _kind(node)
        if kind is not None:
            skeleton.add_node(node, kind=kind)
    for node in list(skeleton.nodes):
        for target, edge in _ways(node):
            if not skeleton.has_edge(node, target):
                skeleton.add_edge(node, target, edge=edge)
    return skeleton


def _name(node: Node) -> str:
    return "getitem" if node.target is operator.getitem else operator_name(node)


def _kind(node: Node) -> str | None:
    name = operator_name(node)
    if name in _PRODUCTS:
        return "product"
    if name in _SOFTMAXES:
        axis, rank = node.args[1], node.meta["val"].dim()
        return "softmax" if axis in (-1, rank - 1) else None
    return None


def _ways(start: Node) -> Iterator[tuple[Node, _Edge]]:
    """Yield the products and softmaxes that a value reaches through nodes that may lie between."""
    waiting: list[tuple[Node, tuple[Node, ...]]] = [(start, ())]
    seen = {start}
    while waiting:
        node, between = waiting.pop()
        for user in node.users:
            if _kind(user) is not None:
                yield user, _Edge(user.args.index(node), between)
            elif _name(user) in _BETWEEN and user not in seen:
                seen.add(user)
                waiting.append((user, (*between, user)))


def _is_attention(match: Mapping[str, Node]) -> bool:
    """Whether both products are of activations, row by row, and not of an activation and a weight."""
    operands = (*match["scores"].args[:2], *match["output"].args[:2])
    return all(
        isinstance(node, Node) and node.op != "get_attr" and node.meta["val"].dim() >= 3 for node in operands
    )


def _candidate(
    match: Mapping[str, Node],
    skeleton: networkx.DiGraph,
    tensors: Mapping[str, torch.Tensor],
    retired: Collection[Node],
) -> Candidate:
    scores, softmax, output = match["scores"], match["softmax"], match["output"]
    before: _Edge = skeleton.edges[scores, softmax]["edge"]
    after: _Edge = skeleton.edges[softmax, output]["edge"]
    scale, refusal = _scale(before.between, tensors)
    q, k = scores.args[:2]
    weights, v = output.args[:2]
    assert isinstance(q, Node)
    assert isinstance(k, Node)
    assert isinstance(v, Node)
    assert isinstance(weights, Node)
    if any(len(node.users.keys() - set(retired)) > 1 for node in (softmax, *after.between)):
        refusal = "its softmax weights are used elsewhere"
    for node in (*before.between, *after.between):
        name = operator_name(node)
        if name in _BENDING:
            refusal = f"its scores go through {name}"
        elif name in _DROPOUTS and node.args[1] and node.args[2]:
            refusal = f"it has dropout {node.args[1]}"
    return Candidate(
        match="eager",
        output=output,
        q=q,
        k=k,
        v=v,
        k_transposed=True,
        scale=scale,
        scores=scores,
        weights=weights,
        refusal=refusal,
    )


def _scale(between: tuple[Node, ...], tensors: Mapping[str, torch.Tensor]) -> tuple[float, str | None]:
    """Return the product of the numbers that scores are multiplied with, or why it is not one number."""
    scale = 1.0
    for node in between:
        name = operator_name(node)
        if name not in _SCALINGS:
            continue
        number = scalar_of(node.args[1], tensors)
        if not number:
            return 1.0, "its scores are multiplied with a tensor"
        scale = scale * number if name == "mul" else scale / number
    return scale, None
