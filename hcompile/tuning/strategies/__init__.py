"""Search strategies. A new one is a file here, with a class that is a `Strategy`, and a line below."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hcompile.errors import UsageError
from hcompile.tuning.measurement import Measurement
from hcompile.tuning.problem import Problem

STRATEGIES = {
    "random": "hcompile.tuning.strategies.random:Random",
    "xgboost": "hcompile.tuning.strategies.xgboost:ModelGuided",
}


@dataclass(frozen=True, slots=True)
class Proposal:
    """The next candidates.

    Attributes:
        positions: of points never measured, each once, the most promising first; empty when none is left.
        hoped_us: an optimistic guess of the best time among everything unmeasured; None where a strategy cannot say.
    """

    positions: tuple[int, ...]
    hoped_us: float | None = None


class Strategy(Protocol):
    """Proposes candidates. Equal seeds and histories give equal proposals."""

    def __init__(self, problem: Problem, seed: int) -> None: ...

    def propose(self, history: Sequence[Measurement], count: int) -> Proposal:
        """Return up to `count` candidates that are not in `history`."""


def make_strategy(name: str, problem: Problem, seed: int) -> Strategy:
    """Return the strategy of this name for one search.

    Raises:
        UsageError: there is none of this name.
    """
    if name not in STRATEGIES:
        raise UsageError(f"search strategy {name!r} is unknown: give one of {', '.join(sorted(STRATEGIES))}")
    module, _, attribute = STRATEGIES[name].partition(":")
    strategy: Strategy = getattr(importlib.import_module(module), attribute)(problem, seed)
    return strategy
