"""Running a program under any plan: compiled once, the plan exchanged with each call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from hcompile.passes.linear import use_library
from hcompile.passes.select import plan_tensors
from hcompile.plan import Plan
from hcompile.program import Program
from hcompile.runtime.dispatch import ScheduleTable, bind_program
from hcompile.runtime.inductor import CompiledGraph


class PlanRunner:
    """A program with our kernels as one compiled graph, whose plan is an argument of the call."""

    def __init__(
        self,
        program: Program,
        tables: Mapping[str, ScheduleTable],
        backend: str,
        linear_library: str,
        weights: Callable[[Plan], Mapping[str, torch.Tensor]] | None = None,
    ) -> None:
        """`weights`: the second weights of a plan by name (`hcompile.passes.refit`), None for a program without."""
        self._program = program
        self._weights = weights
        self._graph = CompiledGraph(use_library(bind_program(program, tables, backend), linear_library))

    def __call__(self, plan: Plan, flat_inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return the program's flat outputs under `plan`."""
        changed = plan_tensors(self._program, plan)
        if self._weights is not None:
            changed |= self._weights(plan)
        return self._graph.call_with(changed, tuple(value.to(self._program.device) for value in flat_inputs))
