"""A pass, and running a list of them with instruments."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hcompile.program import Program


@dataclass(frozen=True, slots=True)
class Pass:
    """A named function from program to program, such as `Pass("select", partial(select, plan=plan))`."""

    name: str
    run: Callable[[Program], Program]


@dataclass(frozen=True, slots=True)
class PassRun:
    """What one pass did: its time, and the number of graph nodes before and after."""

    name: str
    seconds: float
    nodes_before: int
    nodes_after: int


def run_passes(program: Program, passes: Iterable[Pass]) -> tuple[Program, tuple[PassRun, ...]]:
    """Run passes in order; return the last program and a record of each run."""
    runs = []
    for step in passes:
        before, start = count_nodes(program), time.perf_counter()
        program = step.run(program)
        runs.append(PassRun(step.name, time.perf_counter() - start, before, count_nodes(program)))
    return program, tuple(runs)


def count_nodes(program: Program) -> int:
    """Return the number of nodes of the program's graph."""
    return len(program.graph.graph.nodes)
