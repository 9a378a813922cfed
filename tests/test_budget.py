"""Budgets as people write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcompile.budget import Budget


@pytest.mark.parametrize(
    ("text", "metric", "limit"),
    [
        ("kl=0.003", "kl", 0.003),
        ("nll=0.5%", "nll", 0.005),
        ("cosine=0.999", "cosine", 0.999),
        ("kl=0", "kl", 0.0),
        (" kl = 3e-3 ", "kl", 0.003),
        ("package.module:metric=1", "package.module:metric", 1.0),
    ],
)
def test_the_forms_that_are_understood(text: str, metric: str, limit: float) -> None:
    budget = Budget.parse(text)
    assert budget.metric == metric and budget.limit == pytest.approx(limit)


@pytest.mark.parametrize(
    "text", ["", "kl", "kl=", "=1", " =1", "kl=x", "kl=nan", "kl=inf", "kl=-1", "kl=1%%", "kl=%"]
)
def test_other_forms_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"not of the form metric=number or metric=number%, such as kl=0\.003"
    ):
        Budget.parse(text)


@given(st.floats(0, 1e6))
def test_a_limit_survives_its_text(limit: float) -> None:
    assert Budget.parse(f"kl={limit!r}") == Budget("kl", limit)


@pytest.mark.parametrize("limit", [-0.1, math.nan, math.inf])
def test_a_limit_is_finite_and_not_negative(limit: float) -> None:
    with pytest.raises(ValueError, match="limit of kl is"):
        Budget("kl", limit)


@pytest.mark.parametrize("metric", ["", " kl"])
def test_a_metric_has_a_name(metric: str) -> None:
    with pytest.raises(ValueError, match="is no metric's name"):
        Budget(metric, 0.1)


def test_json_form() -> None:
    assert Budget("kl", 0.003).to_json() == {"metric": "kl", "limit": 0.003}
