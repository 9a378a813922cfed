"""Patterns: JSON forms, parameters, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcompile.patterns import (
    UNBOUNDED,
    WIDENING_KEYS,
    Dense,
    GlobalTokens,
    Linear,
    Local,
    Pattern,
    default_families,
    families,
    parse_pattern,
)
from hcompile.patterns.base import pattern_of_label, register_family

sizes = st.integers(1, UNBOUNDED - 1)
widening = st.one_of(
    *(st.builds(kind, sizes, sizes, widening=st.integers(0, WIDENING_KEYS)) for kind in (Local, Linear))
)
patterns = st.one_of(st.just(Dense()), st.builds(GlobalTokens, sizes, sizes), widening)


@given(patterns)
def test_a_pattern_survives_json(pattern: Pattern) -> None:
    assert parse_pattern(json.loads(json.dumps(pattern.to_json()))) == pattern


@given(patterns)
def test_parameters_fit_int32_sums(pattern: Pattern) -> None:
    window, sinks = pattern.params()
    assert 1 <= window <= UNBOUNDED and 0 <= sinks < UNBOUNDED
    assert window + sinks < 2**31


@given(patterns)
def test_a_label_names_its_pattern(pattern: Pattern) -> None:
    assert pattern_of_label(pattern.label()) == pattern


@pytest.mark.parametrize(
    "label",
    [
        "",
        "dense 3",
        "local",
        "local a+b",
        "local 0+4",
        "local 1+2+3",
        "local 8/1024",
        "dense 8/1024",
        "nowhere 1",
    ],
)
def test_a_label_of_no_pattern_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="is no pattern such as 'dense' or 'local 256"):
        pattern_of_label(label)


def test_what_learns_from_text_is_chosen_from_where_it_is_asked_for() -> None:
    assert set(families()) - set(default_families()) == {"linear"}


def test_labels_are_short_names() -> None:
    assert [Dense().label(), Local(256, 64).label()] == ["dense", "local 256+64"]


@pytest.mark.parametrize("window", [0, -1, UNBOUNDED, True, 2.0, "8", None])
def test_a_window_out_of_range_is_refused(window: Any) -> None:
    with pytest.raises(ValueError, match=r"local pattern: window is .*, wanted an integer from 1"):
        Local(window)


@pytest.mark.parametrize("sinks", [-1, UNBOUNDED, False, 1.5, "4"])
def test_sinks_out_of_range_are_refused(sinks: Any) -> None:
    with pytest.raises(ValueError, match=r"local pattern: sinks is .*, wanted an integer from 0"):
        Local(8, sinks)


@pytest.mark.parametrize(
    "value", [None, 3, "dense", [], {}, {"family": "strided"}, {"family": ["local"]}, {"family": {}}]
)
def test_an_unknown_family_is_refused_with_the_known_ones(value: Any) -> None:
    with pytest.raises(
        ValueError, match=r"is of no known family \(known: dense, global, linear, local, routed\)"
    ):
        parse_pattern(value)


@pytest.mark.parametrize(
    "value",
    [
        {"family": "dense", "window": 3},
        {"family": "local"},
        {"family": "local", "window": 8, "sinks": 0, "stride": 2},
    ],
)
def test_wrong_fields_are_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has wrong fields"):
        parse_pattern(value)


def test_a_family_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'local' is registered twice"):
        register_family("local", lambda fields: Local(**fields), Local)
