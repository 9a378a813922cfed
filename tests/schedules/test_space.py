"""Axes, schedules and spaces as values: forms, equality, and points that come once."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcompile.schedules import Axis, Schedule, Space


def small_space() -> Space:
    axes = (
        Axis("block", (16, 32, 64), "size"),
        Axis("rows", (1, 2, 3), "rows"),
        Axis("stage", (0, 1), "copy"),
    )
    return Space(
        "small", axes, lambda v: v["block"] % v["rows"] == 0, (("block", 32), ("rows", 2), ("stage", 0))
    )


@pytest.mark.parametrize("choices", [(), (2, 1), (1, 1), (-1, 2), (True, 2)])
def test_axis_refuses_choices_that_do_not_rise(choices: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="axis"):
        Axis("rows", choices, "rows")


def test_axis_encodes_zero_as_zero() -> None:
    assert Axis("stage", (0, 1), "copy").encode(0) == 0.0


def test_schedules_are_equal_whatever_the_order_of_their_axes() -> None:
    one, other = Schedule("t", (("a", 1), ("b", 2))), Schedule("t", (("b", 2), ("a", 1)))
    assert one == other and hash(one) == hash(other) and one.text == other.text


@given(st.dictionaries(st.text("abc_", min_size=1, max_size=8), st.integers(0, 2**31)))
def test_schedule_survives_json(values: dict[str, int]) -> None:
    schedule = Schedule.of("t", values)
    assert Schedule.from_json(json.loads(schedule.text)) == schedule


@pytest.mark.parametrize(
    "form",
    [
        None,
        {},
        {"template": "t"},
        {"template": "t", "values": []},
        {"template": "t", "values": {"a": "1"}},
        {"template": "t", "values": {"a": True}},
        {"template": "t", "values": {"a": -1}},
        {"template": "", "values": {}},
        {"template": "t", "values": {}, "more": 1},
    ],
)
def test_schedule_refuses_malformed_json(form: object) -> None:
    with pytest.raises(ValueError, match="schedule"):
        Schedule.from_json(form)


def test_schedule_refuses_an_axis_that_comes_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        Schedule("t", (("a", 1), ("a", 2)))


def test_schedule_knows_its_axes_by_name() -> None:
    schedule = Schedule("t", (("a", 1),))
    assert schedule["a"] == 1
    with pytest.raises(KeyError):
        schedule["b"]


def test_space_enumerates_each_legal_point_once() -> None:
    points = list(small_space().enumerate())
    assert len(points) == len(set(points)) == 3 * 2 * 2  # Three rows divide no block.
    assert all(point in small_space() for point in points)


def test_space_has_no_points_of_others() -> None:
    space, point = small_space(), small_space().default()
    assert Schedule("other", point.values) not in space
    assert Schedule.of("small", {"block": 32, "rows": 2}) not in space
    assert Schedule.of("small", {"block": 32, "rows": 3, "stage": 0}) not in space
    assert Schedule.of("small", {"block": 33, "rows": 1, "stage": 0}) not in space


def test_space_refuses_an_illegal_default() -> None:
    with pytest.raises(ValueError, match="not legal"):
        Space("small", small_space().axes, lambda v: False, small_space().start)


def test_space_encodes_each_point_differently() -> None:
    space = small_space()
    encoded = [tuple(space.encode(point)) for point in space.enumerate()]
    assert len(set(encoded)) == len(encoded) and all(len(row) == 3 for row in encoded)


def test_a_search_starts_with_the_default_and_with_what_is_legal_of_the_others() -> None:
    space = small_space()
    legal = next(schedule for schedule in space.enumerate() if schedule != space.default())
    odd = (("nothing", 1),)
    starts = replace(space, also=(legal.values, odd)).starts()
    assert starts == (space.default(), legal)
