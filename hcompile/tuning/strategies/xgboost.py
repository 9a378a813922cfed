"""Search guided by the learned cost model: train on what is measured, propose what looks best, explore a share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hcompile.tuning.cost_model import CostModel
from hcompile.tuning.measurement import Measurement
from hcompile.tuning.problem import Floats, Problem
from hcompile.tuning.strategies import Proposal

WARM_UP = 4
"""Trials spread over the space before the model is asked, where no other workload's records help."""
WARM_UP_WITH_PRIOR = 2
EXPLORE = 0.2
"""Share of the candidates drawn at random, so that a wrong model is found out."""
OPTIMISM = 1.0
"""How many standard deviations below its mean a candidate is ranked."""
FAILURE_COST = float(np.log(2.0))
"""A failed candidate counts as this much worse than the worst right one: its neighbours mostly fail too."""
PRIOR_WEIGHT = 0.3
"""How much a measurement of another workload counts against one of this workload."""


class ModelGuided:
    """Proposes by the lower confidence bound of a boosted-tree ensemble."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self._problem = problem
        self._seed = seed
        spans = np.ptp(problem.features, axis=0)
        scaled = (problem.features - problem.features.min(axis=0)) / np.where(spans > 0, spans, 1.0)
        self._scaled: Floats = scaled[:, spans > 0]

    def propose(self, history: Sequence[Measurement], count: int) -> Proposal:
        measured = self._problem.positions(history)
        fresh = sorted(set(range(len(self._problem.points))) - set(measured))
        # The random stream depends on the trial, not on earlier calls: a resumed search goes on as it would have.
        random = np.random.default_rng((self._seed, len(history)))
        prior = len(self._problem.prior_costs)
        if len(history) < (WARM_UP_WITH_PRIOR if prior else WARM_UP) or not any(each.ok for each in history):
            return Proposal(tuple(self._spread(measured, fresh, count, random)))
        mean, deviation = self.predict(history, fresh)
        hope = mean - OPTIMISM * deviation
        ranked = [fresh[row] for row in np.argsort(hope, kind="stable")]
        explored = int(random.binomial(min(count, len(ranked)), EXPLORE))
        chosen = ranked[: min(count, len(ranked)) - explored]
        rest = ranked[len(chosen) :]
        chosen += [rest[row] for row in random.permutation(len(rest))[:explored]]
        return Proposal(tuple(chosen), self._problem.time_us(float(hope.min())) if len(hope) else None)

    def predict(self, history: Sequence[Measurement], positions: Sequence[int]) -> tuple[Floats, Floats]:
        """Return the mean cost of some points `[N]`, learned from a history with a right point, and its deviation."""
        model = CostModel(self._seed)
        model.fit(*self._training_rows(history, self._problem.positions(history)))
        return model.predict(self._problem.features[list(positions)])

    def _training_rows(
        self, history: Sequence[Measurement], measured: Sequence[int]
    ) -> tuple[Floats, Floats, Floats]:
        right = [self._problem.cost(each.median_us) for each in history if each.ok]
        failed = max(right) + FAILURE_COST
        costs = np.array([self._problem.cost(each.median_us) if each.ok else failed for each in history])
        features = self._problem.features[list(measured)]
        weights = np.ones(len(costs))
        if len(self._problem.prior_costs):
            features = np.concatenate([features, self._problem.prior_features])
            costs = np.concatenate([costs, self._problem.prior_costs])
            weights = np.concatenate([weights, np.full(len(self._problem.prior_costs), PRIOR_WEIGHT)])
        return features, costs, weights

    def _spread(
        self, measured: Sequence[int], fresh: Sequence[int], count: int, random: np.random.Generator
    ) -> list[int]:
        """Choose the known good ones, then points far from all chosen ones: each of a random few, the farthest."""
        chosen: list[int] = []
        left = set(fresh)
        for known in (self._problem.default, *self._problem.also):
            if known in left:
                chosen.append(known)
                left.discard(known)
        while left and len(chosen) < count:
            pool = random.choice(sorted(left), size=min(16, len(left)), replace=False)
            taken = [*measured, *chosen]
            distance = np.abs(self._scaled[pool][:, None] - self._scaled[taken][None]).sum(axis=2).min(axis=1)
            pick = int(pool[int(distance.argmax())])
            chosen.append(pick)
            left.discard(pick)
        return chosen[:count]
