"""Linear far fields: attention nodes get the feature maps of their heads, and which of the heads use theirs.

What the maps are is found by `hcompile.policy.feature_maps`; which heads have a far field, a plan says.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hcompile.passes.sites import FAR_HEADS, MAPS, give, takes, tensor_name
from hcompile.plan import Plan
from hcompile.program import Program
from hcompile.site import Site


def insert_far_field(program: Program, maps: Mapping[str, torch.Tensor]) -> Program:
    """Return the program whose attention nodes have a place for linear far fields, with its plan's heads in them.

    Args:
        maps: `[Hq, 2, F, D + 1]` by site. A program that has a plan gets them where the plan has such heads; one that
            has none gets them all, with no head using them until a call exchanges which do.
    """
    graph = program.edit()
    tensors = dict(program.tensors)
    plan = program.plan
    for site, node in program.attention_nodes(graph):
        if site.name not in maps or (plan is not None and not has_far_field(plan, site)):
            continue
        learned, using = f"hcompile_maps_{site.layer}", f"hcompile_far_{site.layer}"
        tensors[learned] = maps[site.name].to(program.device)
        tensors[using] = _using(program, plan, site)
        with graph.inserting_before(node):
            places = tuple(graph.get_attr(name) for name in (learned, using))
        give(node, MAPS, *places)
    return program.with_graph(graph, tensors)


def has_far_field(plan: Plan, site: Site) -> bool:
    """Return whether a plan gives some head of a site a linear far field."""
    return any(pattern.has_far_field for pattern in plan[site.name])


def far_heads(program: Program, plan: Plan) -> dict[str, torch.Tensor]:
    """Return what a plan says to the nodes that have maps: bool `[Hq]` by tensor name."""
    return {
        tensor_name(node, FAR_HEADS): _using(program, plan, site)
        for site, node in program.attention_nodes()
        if takes(node, FAR_HEADS)
    }


def _using(program: Program, plan: Plan | None, site: Site) -> torch.Tensor:
    heads = [False] * site.q_heads if plan is None else [pattern.has_far_field for pattern in plan[site.name]]
    return torch.tensor(heads, device=program.device)
