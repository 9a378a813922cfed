"""Budgets, resolved: several at once, and which of them scores are taken for."""

from __future__ import annotations

from pathlib import Path

import pytest

from hcompile.errors import UsageError
from hcompile.policy.goal import goals_of, scored_by


def test_each_budget_is_a_goal_in_its_metrics_own_way() -> None:
    goals = goals_of((" kl=0.003 ", "nll=0.5%", "cosine=0.999"))
    assert [goal.text for goal in goals] == ["kl=0.003", "nll=0.5%", "cosine=0.999"]
    assert [goal.limit for goal in goals] == pytest.approx([0.003, 0.005, 0.001])


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ((), "no budget is given"),
        (("kl=0.003", "kl"), "not of the form metric=number"),
        (("kl=0.003", "nll=1%", "kl=0.1"), "metric kl has two budgets, kl=0.003 and kl=0.1"),
        (("kl=0.003", "bleu=1"), "'bleu' is unknown"),
        (
            ("kl.p99=0.05", "kl=0.003", "kl.p99.0=0.1"),
            r"metric kl\.p99 has two budgets, kl\.p99=0\.05 and kl",
        ),
    ],
)
def test_budgets_that_cannot_be_are_refused(budgets: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        goals_of(budgets)


def test_a_function_serves_the_budget_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_goal.py").write_text(
        "def mine(dense, hybrid, inputs):\n    return [0.0] * len(inputs[0])\n"
    )
    monkeypatch.chdir(tmp_path)
    goals = goals_of(("kl=0.003", "mine=2"), "own_goal:mine")
    assert [goal.metric.label() for goal in goals] == ["kl", "own_goal:mine"]
    with pytest.raises(UsageError, match=r"budget kl=\.\.\. does not name the metric own_goal:mine"):
        goals_of(("kl=0.003", "nll=1%"), "own_goal:mine")


@pytest.mark.parametrize(
    ("budgets", "scored"),
    [
        (("nll=1%",), 0),
        (("nll=1%", "kl=0.003"), 1),
        (("kl.p99=0.05", "kl=0.003"), 1),
        (("kl.p99=0.05", "nll=1%"), 0),
        (("cosine=0.9", "kl=0.003"), 0),
        (("kl=0.003", "cosine=0.9"), 0),
    ],
)
def test_scores_are_of_the_first_metric_that_they_expand(budgets: tuple[str, ...], scored: int) -> None:
    assert scored_by(goals_of(budgets)) == scored
