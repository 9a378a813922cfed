"""Linear far fields: what an attention returns goes through `far_heads`, which puts the heads that have one in place.

What the maps are is found by `hcompile.policy.feature_maps`; which heads have a far field, a plan says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Graph, Node

from hcompile.far_field_operator import far_heads
from hcompile.passes.sites import KEY_MASK, Q_OFFSET, SCALE, K, Q, V, arguments, tensor_name
from hcompile.patterns.base import NO_FAR_FIELD
from hcompile.plan import Plan
from hcompile.program import Program
from hcompile.site import Site

# Positions of the operator's arguments.
OUT, MASK, PARAMS = 0, 4, 6


def insert_far_field(program: Program, maps: Mapping[str, torch.Tensor]) -> Program:
    """Return the program with a place for linear far fields behind attention nodes, and its plan's heads in them.

    It comes after every pass that looks for what follows an attention.

    Args:
        maps: `[Hq, 2, F, D + 1]` by site. A program that has a plan gets them where the plan has such heads; one that
            has none gets them all, with no head using them until a call exchanges the parameters.
    """
    graph = program.edit()
    tensors = dict(program.tensors)
    plan = program.plan
    for site, node in program.attention_nodes(graph):
        if site.name not in maps or (plan is not None and not has_far_field(plan, site)):
            continue
        tensors[_maps_name(site)] = maps[site.name].to(program.device)
        tensors[_params_name(site)] = _params(program, plan, site)
        args = arguments(node)
        with graph.inserting_before(node):
            learned, params = (graph.get_attr(name(site)) for name in (_maps_name, _params_name))
        with graph.inserting_after(node):
            new = graph.call_function(
                far_heads,
                (
                    node,
                    args[Q],
                    args[K],
                    args[V],
                    args[KEY_MASK],
                    learned,
                    params,
                    args[Q_OFFSET],
                    args[SCALE],
                ),
            )
        if "val" in node.meta:
            new.meta = {"val": node.meta["val"]}
        for user in [user for user in node.users if user is not new]:
            user.replace_input_with(node, new)
    return program.with_graph(graph, tensors)


def has_far_field(plan: Plan, site: Site) -> bool:
    """Return whether a plan gives some head of a site a linear far field."""
    return any(pattern.has_far_field for pattern in plan[site.name])


def far_nodes(graph: Graph) -> list[Node]:
    """Return the nodes of a graph that put such heads in place."""
    return [node for node in graph.nodes if node.target is far_heads]


def far_params(program: Program, plan: Plan) -> dict[str, torch.Tensor]:
    """Return what a plan gives the program's `far_heads` nodes to read: int32 `[Hq, 2]` by tensor name."""
    there = {tensor_name(node, PARAMS) for node in far_nodes(program.graph.graph)}
    return {
        _params_name(site): _params(program, plan, site)
        for site in program.sites
        if _params_name(site) in there
    }


def drop_far_field(graph: Graph) -> None:
    """Let what follows take the attention's output as it is."""
    for node in far_nodes(graph):
        out: Any = node.args[OUT]
        node.replace_all_uses_with(out)
        graph.erase_node(node)


def _params(program: Program, plan: Plan | None, site: Site) -> torch.Tensor:
    rows = [NO_FAR_FIELD] * site.q_heads if plan is None else [pattern.far() for pattern in plan[site.name]]
    return torch.tensor(rows, dtype=torch.int32, device=program.device)


def _maps_name(site: Site) -> str:
    return f"hcompile_maps_{site.layer}"


def _params_name(site: Site) -> str:
    return f"hcompile_far_{site.layer}"
