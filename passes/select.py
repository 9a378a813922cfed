"""Selecting: a plan's patterns become the parameters of the attention nodes."""

from __future__ import annotations

import torch

from hcompile.errors import UsageError
from hcompile.passes.sites import HEAD_PARAMS, arguments
from hcompile.plan import Plan
from hcompile.program import Program


def select(program: Program, plan: Plan) -> Program:
    """Return the program with the pattern of each head in place; the graph stays as it is.

    Raises:
        UsageError: the plan names other sites, other head counts, or more than a head's own window.
    """
    try:
        plan.check(program.sites)
    except ValueError as error:
        raise UsageError(str(error)) from error
    tensors = dict(program.tensors)
    graph = program.edit()
    for site, node in program.attention_nodes(graph):
        params = [pattern.params() for pattern in plan[site.name]]
        tensors[arguments(node)[HEAD_PARAMS].target] = torch.tensor(params, dtype=torch.int32)
    return program.with_graph(graph, tensors, plan=plan)
