"""Windows that widen with the length: attention nodes get what theirs gain, beside their parameters."""

from __future__ import annotations

import torch

from hcompile.passes.sites import WIDENING, give, takes, tensor_name
from hcompile.plan import Plan
from hcompile.program import Program
from hcompile.site import Site


def insert_widening(program: Program) -> Program:
    """Return the program whose attention nodes have a place for what their windows gain, with its plan's in them.

    A program that has a plan gets them where the plan has such heads; one that has none gets them all, and no window
    widens until a call exchanges what they gain.
    """
    graph = program.edit()
    tensors = dict(program.tensors)
    plan = program.plan
    for site, node in program.attention_nodes(graph):
        if plan is not None and not any(pattern.widening for pattern in plan[site.name]):
            continue
        name = f"hcompile_widening_{site.layer}"
        tensors[name] = _gains(program, plan, site)
        with graph.inserting_before(node):
            place = graph.get_attr(name)
        give(node, WIDENING, place)
    return program.with_graph(graph, tensors)


def widenings(program: Program, plan: Plan) -> dict[str, torch.Tensor]:
    """Return what a plan's windows gain in the nodes that have a place for it: int32 `[Hq]` by tensor name."""
    return {
        tensor_name(node, WIDENING): _gains(program, plan, site)
        for site, node in program.attention_nodes()
        if takes(node, WIDENING)
    }


def _gains(program: Program, plan: Plan | None, site: Site) -> torch.Tensor:
    gains = [0] * site.q_heads if plan is None else [pattern.widening for pattern in plan[site.name]]
    return torch.tensor(gains, dtype=torch.int32, device=program.device)
