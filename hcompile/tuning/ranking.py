"""How well the cost model ranks what it has not seen, computed from recorded sweeps alone."""

from __future__ import annotations

import math

import numpy as np

from hcompile.tuning.problem import Problem
from hcompile.tuning.replay import Replay, Sweep
from hcompile.tuning.strategies import make_strategy
from hcompile.tuning.strategies.xgboost import ModelGuided

LEARNED = 10
"""Points that the model learns from."""
TOP = 5
"""Points that it puts first, of which the best is taken."""


def rank_quality(sweep: Sweep, problem: Problem, seed: int) -> tuple[float, float]:
    """Return the rank correlation and the regret of a model that has learned from `LEARNED` points.

    The points are drawn at random, failures among them, so that what is left is like them; what a search has measured
    by then is not. The model then ranks all points that are left.

    Args:
        problem: the sweep as a search sees it.

    Returns:
        Spearman's correlation of predicted and measured times, over the points left that are right; and by what share
        the fastest of the `TOP` points left with the least prediction is slower than the fastest point left, infinite
        where all of those fail. 0 and infinity where no point that was learned from is right.
    """
    from scipy.stats import spearmanr

    drawn = make_strategy("random", problem, seed).propose([], LEARNED).positions
    history = list(Replay(sweep).run([problem.points[position] for position in drawn], math.inf))
    left = sorted(set(range(len(problem.points))) - set(drawn))
    measured = list(Replay(sweep).run([problem.points[position] for position in left], math.inf))
    right = [row for row, each in enumerate(measured) if each.ok]
    if not any(each.ok for each in history) or len(right) < 2:
        return 0.0, math.inf
    predicted, _ = ModelGuided(problem, seed).predict(history, left)
    times_us = np.array([each.median_us if each.ok else math.inf for each in measured])
    first = np.argsort(predicted, kind="stable")[:TOP]
    regret = float(times_us[first].min() / times_us.min() - 1)
    if np.ptp(predicted[right]) == 0 or np.ptp(times_us[right]) == 0:
        return 0.0, regret  # What has one value for all ranks nothing.
    return float(spearmanr(predicted[right], times_us[right]).statistic), regret
