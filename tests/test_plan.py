"""Plans: fit to a model, JSON, and the share of pairs they remove."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcompile.patterns import Dense, Local, Pattern
from hcompile.plan import Plan, own_pattern
from hcompile.site import Site

A = Site("a", 0, 4, 2, 16, 0.25, True)
B = Site("b", 1, 2, 2, 16, 0.25, True, 8)
heads = st.lists(
    st.one_of(st.just(Dense()), st.builds(Local, st.integers(1, 99), st.integers(0, 9))), min_size=1
)


@given(st.dictionaries(st.text("abc.", min_size=1), heads))
def test_a_plan_survives_json(choices: dict[str, list[Pattern]]) -> None:
    plan = Plan.of(choices)
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan and again.digest == plan.digest


def test_the_dense_plan_keeps_what_the_model_has() -> None:
    plan = Plan.dense([A, B])
    plan.check([A, B])
    assert plan["a"] == (Dense(),) * 4 and plan["b"] == (Local(8, 0),) * 2
    assert plan.removed_share([A, B], 100) == 0.0


def test_removed_share_is_that_of_the_pairs() -> None:
    plan = Plan.of({"a": [Dense(), Dense(), Dense(), Local(1, 0)]})
    assert plan.visited_pairs([A], 10) == 3 * 55 + 10
    assert plan.removed_share([A], 10) == pytest.approx(1 - 175 / 220)


def test_the_digest_tells_plans_apart() -> None:
    assert Plan.of({"a": [Local(4, 1)]}).digest != Plan.of({"a": [Local(1, 4)]}).digest


def test_a_site_that_is_not_in_the_plan_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="b"):
        Plan.of({"a": [Dense()]})["b"]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"a": [Dense()] * 4}, r"missing sites \['b'\], unknown sites \[\]"),
        ({"a": [Dense()] * 4, "b": [Local(8)] * 2, "c": [Dense()]}, r"unknown sites \['c'\]"),
        ({"a": [Dense()] * 3, "b": [Local(8)] * 2}, "site a has 3 patterns for 4 query heads"),
        (
            {"a": [Dense()] * 4, "b": [Local(8), Dense()]},
            "head 1 of b sees more than the model's own window 8",
        ),
        ({"a": [Dense()] * 4, "b": [Local(4, 1), Local(8)]}, "head 0 of b sees more than"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(choices: dict[str, list[Pattern]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan.of(choices).check([A, B])


def test_a_plan_may_narrow_the_models_own_window() -> None:
    Plan.of({"b": [Local(8), Local(3)]}).check([B])


def test_own_pattern_follows_the_window() -> None:
    assert own_pattern(A) == Dense() and own_pattern(replace(B, window=5)) == Local(5, 0)


def test_a_plan_names_a_site_once() -> None:
    with pytest.raises(ValueError, match="a plan names a site twice"):
        Plan((("a", (Dense(),)), ("a", (Dense(),))))


@pytest.mark.parametrize("wrong", [(), ("dense",), (None,)])
def test_heads_are_patterns(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="site a wants one pattern per query head"):
        Plan((("a", wrong),))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"schema": 1},
        {"schema": 2, "sites": []},
        {"schema": 1, "sites": {}},
        {"schema": 1, "sites": [3]},
        {"schema": 1, "sites": [{"site": "a"}]},
        {"schema": 1, "sites": [{"site": "", "heads": []}]},
        {"schema": 1, "sites": [{"site": "a", "heads": []}]},
        {"schema": 1, "sites": [{"site": "a", "heads": {"family": "dense"}}]},
        {"schema": 1, "sites": [{"site": "a", "heads": [{"family": "none"}]}]},
        {"schema": 1, "sites": [{"site": "a", "heads": [{"family": "dense"}], "keep": True}]},
    ],
)
def test_json_that_is_no_plan_is_refused_in_one_line(value: Any) -> None:
    with pytest.raises(ValueError, match=r"plan|pattern") as caught:
        Plan.from_json(value)
    assert "\n" not in str(caught.value)
