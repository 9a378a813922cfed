"""Random search without repetition: what every other strategy has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hcompile.tuning.measurement import Measurement
from hcompile.tuning.problem import Problem
from hcompile.tuning.strategies import Proposal


class Random:
    """Walks through the points in one random order."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self._problem = problem
        self._order = np.random.default_rng(seed).permutation(len(problem.points)).tolist()

    def propose(self, history: Sequence[Measurement], count: int) -> Proposal:
        measured = set(self._problem.positions(history))
        fresh = [position for position in self._order if position not in measured]
        return Proposal(tuple(fresh[:count]))
