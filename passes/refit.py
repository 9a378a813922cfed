"""Refitting: the linear layer behind an attention gets a second weight, which the hybrid takes and the dense model not.

What the second weights are is found by `hcompile.policy.refit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Graph, Node

from hcompile.linear_operator import onednn_linear
from hcompile.passes.evaluate import Evaluator, NotUnderstood, concrete, is_size, operator_name, symbols_of
from hcompile.passes.layout import MOVES
from hcompile.passes.sites import KEY_MASK, arguments, tensor_name
from hcompile.program import Program
from hcompile.refit_operator import refit_linear
from hcompile.site import Site

# Positions of the operator's arguments.
X, WEIGHT, REFITTED, BIAS, MASK, START, ONEDNN = range(7)

_aten = torch.ops.aten


def output_projections(program: Program) -> dict[str, Node]:
    """Return the linear layer behind each causal attention that has one, by site.

    It takes the heads side by side, `[B, S, Hq * D]`, and nothing else takes them. Encoders have none: every token of
    theirs sees the whole text, so there is no start of it to leave alone.
    """
    found = {}
    for site, node in program.attention_nodes():
        linear = _linear_behind(node)
        if site.causal and linear is not None and _has_heads_side_by_side(program, node, linear):
            found[site.name] = linear
    return found


def insert_refit(program: Program, start: int, weights: Mapping[str, torch.Tensor] | None = None) -> Program:
    """Return the program with a second weight for output projections.

    Args:
        start: tokens that see at most this many keys keep the first one.
        weights: second weights by `refit_name`, for these projections; None for all projections, the second weight
            being the first one until a call exchanges it.
    """
    sites = {site.name: site for site in program.sites}
    chosen = {
        linear.name: sites[name]
        for name, linear in output_projections(program).items()
        if weights is None or refit_name(sites[name]) in weights
    }
    graph = program.edit()
    masks = {site.name: arguments(node)[KEY_MASK] for site, node in program.attention_nodes(graph)}
    tensors = dict(program.tensors)
    for node in [node for node in graph.nodes if node.name in chosen]:
        site = chosen[node.name]
        name = refit_name(site)
        x, weight, *bias = node.args
        tensors[name] = tensors[weight.target] if weights is None else weights[name]
        with graph.inserting_before(node):
            second = graph.get_attr(name)
            new = graph.call_function(
                refit_linear, (x, weight, second, bias[0] if bias else None, masks[site.name], start, False)
            )
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    return program.with_graph(graph, tensors)


def refit_name(site: Site) -> str:
    """Return the name of the tensor that holds a site's second weight."""
    return f"hcompile_refit_{site.layer}"


def refit_nodes(graph: Graph) -> list[Node]:
    """Return the nodes of a graph that have a second weight."""
    return [node for node in graph.nodes if node.target is refit_linear]


def refit_facts(program: Program) -> dict[str, Any] | None:
    """Return {"start", "projections": the sites whose projection has a second weight}, None where none has."""
    nodes = refit_nodes(program.graph.graph)
    names = {tensor_name(node, REFITTED) for node in nodes}
    starts: list[Any] = [node.args[START] for node in nodes]
    sites = [site.name for site in program.sites if refit_name(site) in names]
    return {"start": starts[0], "projections": sites} if nodes else None


def own_weights(program: Program) -> dict[str, torch.Tensor]:
    """Return the model's own weights in the place of the second ones, by their tensor names."""
    nodes = refit_nodes(program.graph.graph)
    return {tensor_name(node, REFITTED): program.tensors[tensor_name(node, WEIGHT)] for node in nodes}


def drop_refit(graph: Graph) -> None:
    """Make every such node the model's own linear layer again."""
    for node in refit_nodes(graph):
        with graph.inserting_before(node):
            target = onednn_linear if node.args[ONEDNN] else _aten.linear.default
            own = graph.call_function(target, (node.args[X], node.args[WEIGHT], node.args[BIAS]))
        own.meta = dict(node.meta)
        node.replace_all_uses_with(own)
        graph.erase_node(node)


def _linear_behind(node: Node) -> Node | None:
    """Return the linear layer that a node's value reaches through moves alone, None where it goes anywhere else."""
    while True:
        users = [user for user in node.users if not is_size(user)]
        if len(users) != 1 or users[0].all_input_nodes[0] is not node:
            return None
        (user,) = users
        if user.target is _aten.linear.default:
            weight: Any = user.args[1]
            return user if weight.op == "get_attr" else None
        if operator_name(user) not in MOVES:
            return None
        node = user


def _has_heads_side_by_side(program: Program, node: Node, linear: Node) -> bool:
    shape = node.meta["val"].shape
    sizes: dict[str, int] = {}
    for size in shape:
        for symbol in sorted(symbols_of(size)):
            least, most = program.dims.get(symbol, (1, None))
            wanted = max(least, 2 + len(sizes))
            sizes[symbol] = wanted if most is None else min(wanted, most)
    batch, heads, length, head_dim = (int(concrete(size, sizes)) for size in shape)
    index = torch.arange(batch * heads * length * head_dim).view(batch, length, heads, head_dim)
    value: Any = linear.args[0]
    try:
        found = Evaluator(program.tensors, sizes, {node: index.transpose(1, 2)}).tensor(value)
    except NotUnderstood:
        return False
    return torch.equal(found, index.flatten(2))
