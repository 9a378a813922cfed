"""The search loop: propose, measure, learn, until nothing better is in sight."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from hcompile.tuning.measurement import Measurement, Runner, TrialProgress, fastest
from hcompile.tuning.problem import Problem
from hcompile.tuning.strategies import STRATEGIES, Proposal, make_strategy


class Stop(StrEnum):
    """Why a search ended."""

    EXHAUSTED = "every schedule is measured"
    TRIALS = "the trials are used up"
    TIME = "the time is used up"
    PATIENCE = "no improvement for a while"
    HOPELESS = "no candidate is predicted to improve beyond the noise"


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How far a search goes.

    Attributes:
        strategy: a name in `strategies.STRATEGIES`.
        trials: candidates measured at most, failures included.
        batch: candidates proposed at a time.
        patience: candidates without an improvement beyond the noise after which the search ends.
        noise: relative difference between two timings of one candidate that means nothing.
        slow_factor: a candidate slower than the best by this factor gets a single timing.
        finalists: candidates timed against each other at the end.
        time_limit_s: no batch but the first is begun after this time.
        seed: makes the proposals repeatable.
    """

    strategy: str = "xgboost"
    trials: int = 32
    batch: int = 4
    patience: int = 16
    noise: float = 0.02
    slow_factor: float = 1.5
    finalists: int = 3
    time_limit_s: float = 600.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(
                f"search strategy {self.strategy!r} is unknown (known: {', '.join(sorted(STRATEGIES))})"
            )
        for name in ("trials", "batch", "patience", "finalists"):
            if getattr(self, name) < 1:
                raise ValueError(f"search option {name} is {getattr(self, name)}, wanted at least 1")
        if not 0 <= self.noise < 1 or self.slow_factor < 1 or not 0 < self.time_limit_s < math.inf:
            raise ValueError(
                "search options: wanted noise in [0, 1), slow_factor from 1, time_limit_s above 0"
            )


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Attributes:
        history: one measurement per candidate in the order of their trials, those from before the search first, and
            last what others measured meanwhile.
        winner: the fastest finalist by the interleaved timing, None when no candidate is right.
    """

    history: tuple[Measurement, ...]
    winner: Measurement | None
    stop: Stop


def search(
    problem: Problem,
    runner: Runner,
    options: SearchOptions,
    known: Sequence[Measurement] = (),
    progress: TrialProgress | None = None,
) -> SearchResult:
    """Find a fast schedule of `problem`.

    Args:
        known: measurements of this very workload from an interrupted run; they count as trials.
    """
    started = time.monotonic()
    strategy = make_strategy(options.strategy, problem, options.seed)
    history = list(known)
    elsewhere: set[int] = set()  # What other processes are measuring.
    while True:
        stop = _over(problem, history, elsewhere, options, started)
        if stop is not None:
            break
        room = min(options.batch, options.trials - len(history))
        proposal = strategy.propose(history, room + len(elsewhere))
        if _is_hopeless(history, proposal, options):
            stop = Stop.HOPELESS
            break
        positions = [position for position in proposal.positions if position not in elsewhere][:room]
        best = fastest(history)
        limit_us = best.median_us * options.slow_factor if best else math.inf
        for measurement in runner.run([problem.points[position] for position in positions], limit_us):
            history.append(measurement)
            if progress:
                best = fastest(history)
                progress(len(history), options.trials, best.median_us if best else None)
        elsewhere.update(set(positions) - set(problem.positions(history)))
    history += _meanwhile(problem, history, runner)
    return SearchResult(tuple(history), _final(history, runner, options), stop)


def _over(
    problem: Problem,
    history: Sequence[Measurement],
    elsewhere: set[int],
    options: SearchOptions,
    started: float,
) -> Stop | None:
    if len(history) + len(elsewhere) >= len(problem.points):
        return Stop.EXHAUSTED
    if len(history) >= options.trials:
        return Stop.TRIALS
    if history and time.monotonic() - started >= options.time_limit_s:
        return Stop.TIME
    if _since_improvement(history, options.noise) >= options.patience:
        return Stop.PATIENCE
    return None


def _meanwhile(problem: Problem, history: Sequence[Measurement], runner: Runner) -> list[Measurement]:
    """Return what other processes have measured since the search began, so that their best can win too."""
    unmeasured = set(problem.points) - {each.schedule for each in history}
    return [each for each in runner.known() if each.schedule in unmeasured]


def _is_hopeless(history: Sequence[Measurement], proposal: Proposal, options: SearchOptions) -> bool:
    """Say whether the strategy hopes for no gain beyond the noise, and lately was right in that."""
    best = fastest(history)
    if (
        best is None
        or proposal.hoped_us is None
        or _since_improvement(history, options.noise) < options.patience / 2
    ):
        return False
    return proposal.hoped_us > best.median_us * (1 - options.noise)


def _since_improvement(history: Sequence[Measurement], noise: float) -> int:
    """Count the trials since the best time last fell by more than the noise; 0 while nothing is right."""
    best, last = None, len(history)
    for trial, measurement in enumerate(history):
        if measurement.ok and (best is None or measurement.median_us < best * (1 - noise)):
            best, last = measurement.median_us, trial + 1
    return len(history) - last


def _final(history: Sequence[Measurement], runner: Runner, options: SearchOptions) -> Measurement | None:
    """Time the fastest few against each other: the least of many noisy medians is partly luck."""
    right = sorted((each for each in history if each.ok), key=lambda each: each.median_us)
    if not right:
        return None
    close = [each for each in right if each.median_us <= right[0].median_us * (1 + 2 * options.noise)]
    return right[0] if len(close) == 1 else fastest(runner.retime(close[: options.finalists]))
