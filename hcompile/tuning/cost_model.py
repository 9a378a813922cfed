"""The learned cost model: an ensemble of boosted trees over schedule, workload and machine features."""

from __future__ import annotations

import numpy as np

from hcompile.tuning.problem import Floats

MEMBERS = 6
_ROUNDS = 120
_PARAMS = {
    "objective": "reg:squarederror",
    "tree_method": "exact",
    "max_depth": 2,
    "eta": 0.15,
    "min_child_weight": 1.0,
    "lambda": 0.3,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "nthread": 1,
    "verbosity": 0,
}


class CostModel:
    """Predicts costs (`Problem.cost`) of points never measured, and how unsure it is of each.

    The members see different samples of rows and features; where they disagree, the data says little. One thread and
    fixed seeds: equal data gives equal predictions.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._boosters: list[object] = []

    def fit(self, features: Floats, costs: Floats, weights: Floats) -> None:
        """Learn from rows of features `[N, F]`, their costs `[N]` and how much each row counts `[N]`."""
        import xgboost

        data = xgboost.DMatrix(features, label=costs, weight=weights)
        base = float(np.average(costs, weights=weights))
        self._boosters = [
            xgboost.train(
                {**_PARAMS, "base_score": base, "seed": self._seed * MEMBERS + member}, data, _ROUNDS
            )
            for member in range(MEMBERS)
        ]

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Return the mean cost of each row `[N]` and the standard deviation over the members `[N]`."""
        import xgboost

        data = xgboost.DMatrix(features)
        each = np.stack([booster.predict(data) for booster in self._boosters]).astype(np.float64)  # type: ignore[attr-defined]
        return each.mean(axis=0), each.std(axis=0)
