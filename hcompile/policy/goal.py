"""What a plan must hold: one metric and its limit for each budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hcompile.budget import Budget
from hcompile.errors import UsageError
from hcompile.policy.metrics import metric_of
from hcompile.policy.metrics.base import Metric


@dataclass(frozen=True, slots=True)
class Goal:
    """One budget, resolved.

    Attributes:
        text: the budget as it was written, for messages.
        metric: what it bounds.
        limit: the largest degradation, as the metric counts it (`Metric.limit`).
    """

    text: str
    metric: Metric
    limit: float

    def key(self) -> dict[str, Any]:
        """Return what tells this goal from others, for keys of remembered results."""
        return {"metric": self.metric.source(), "label": self.metric.label(), "limit": self.limit}


def goals_of(budgets: Sequence[str], function: str | None = None) -> tuple[Goal, ...]:
    """Resolve budgets as people write them; all of them are to hold.

    Args:
        function: `package.module:function` of a user's own metric, which one of the budgets names.

    Raises:
        UsageError: there is no budget, one has another form, a metric is unknown or has two budgets, or none names
            the function.
    """
    if not budgets:
        raise UsageError("no budget is given: pass --budget METRIC=LIMIT")
    try:
        parsed = [Budget.parse(text) for text in budgets]
    except ValueError as error:
        raise UsageError(str(error)) from error
    own = None if function is None else function.rpartition(":")[2]
    named = any(budget.metric == own for budget in parsed)
    goals: dict[str, Goal] = {}
    for text, budget in zip(map(str.strip, budgets), parsed, strict=True):
        # Where no budget names the function, the first one says so.
        metric = metric_of(budget.metric, None if named and budget.metric != own else function)
        label = metric.label()
        if label in goals:
            raise UsageError(f"metric {label} has two budgets, {goals[label].text} and {text}: give one")
        goals[label] = Goal(text, metric, metric.limit(budget.limit))
    return tuple(goals.values())


def scored_by(goals: Sequence[Goal]) -> int:
    """Return which goal Taylor scores are taken for, and first plans are allocated within.

    The first one whose metric is what the scores expand, else the first one of logits, else the first one. The others
    need no gradients: repair measures them.
    """
    for wanted in ("expanded", "needs_logits"):
        for index, goal in enumerate(goals):
            if getattr(goal.metric, wanted):
                return index
    return 0
