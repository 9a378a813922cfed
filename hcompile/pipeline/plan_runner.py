"""Running a program under any plan: compiled once, the plan exchanged with each call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from hcompile.passes.linear import use_library
from hcompile.passes.sites import HEAD_PARAMS, arguments
from hcompile.plan import Plan
from hcompile.program import Program
from hcompile.runtime.dispatch import ScheduleTable, bind_program
from hcompile.runtime.inductor import CompiledGraph


class PlanRunner:
    """A program with our kernels as one compiled graph, whose plan is an argument of the call."""

    def __init__(
        self, program: Program, tables: Mapping[str, ScheduleTable], backend: str, linear_library: str
    ) -> None:
        self._sites = program.sites
        self._names = {
            site.name: str(arguments(node)[HEAD_PARAMS].target) for site, node in program.attention_nodes()
        }
        self._graph = CompiledGraph(use_library(bind_program(program, tables, backend), linear_library))

    def __call__(self, plan: Plan, flat_inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return the program's flat outputs under `plan`."""
        changed = {
            self._names[site.name]: torch.tensor(
                [pattern.params() for pattern in plan[site.name]], dtype=torch.int32
            )
            for site in self._sites
        }
        return self._graph.call_with(changed, tuple(flat_inputs))
