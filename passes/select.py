"""Selecting: a plan's patterns become the parameters of the attention nodes."""

from __future__ import annotations

import torch

from hcompile.errors import UsageError
from hcompile.passes.far_field import far_heads
from hcompile.passes.sites import HEAD_PARAMS, tensor_name
from hcompile.passes.widening import widenings
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
    tensors = {**program.tensors, **plan_tensors(program, plan)}
    return program.with_graph(program.edit(), tensors, plan=plan)


def plan_tensors(program: Program, plan: Plan) -> dict[str, torch.Tensor]:
    """Return what the nodes read of a plan, by tensor name: int32 `[Hq, 2]`, and for those that have a place for them
    bool `[Hq]` of far fields and int32 `[Hq]` of what windows gain."""
    own = {
        tensor_name(node, HEAD_PARAMS): torch.tensor(
            [pattern.params() for pattern in plan[site.name]], dtype=torch.int32, device=program.device
        )
        for site, node in program.attention_nodes()
    }
    return {**own, **far_heads(program, plan), **widenings(program, plan)}
