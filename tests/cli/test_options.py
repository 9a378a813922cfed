"""Values that options take."""

from __future__ import annotations

import click
import pytest

from hcompile.cli.options import Duration, Integers, Names


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [("90", 90.0), ("90s", 90.0), ("20m", 1200.0), ("20min", 1200.0), ("1.5h", 5400.0)],
)
def test_duration_is_read_in_its_unit(text: str, duration_s: float) -> None:
    assert Duration().convert(text, None, None) == duration_s


@pytest.mark.parametrize("text", ["", "0", "-3", "20 m", "1d", "nan"])
def test_duration_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time such as"):
        Duration().convert(text, None, None)


def test_integers_are_split_at_commas() -> None:
    assert Integers(0).convert("0,5, 7", None, None) == (0, 5, 7)


@pytest.mark.parametrize(
    ("text", "reason"), [("1,,2", "is no list"), ("a", "is no list"), ("4,0", "0 is below 1")]
)
def test_integers_of_another_form_are_refused(text: str, reason: str) -> None:
    with pytest.raises(click.BadParameter, match=reason):
        Integers(1).convert(text, None, None)


def test_names_are_split_at_commas() -> None:
    assert Names(("local", "routed")).convert("routed, local", None, None) == ("routed", "local")


@pytest.mark.parametrize("text", ["", "local,", "strided"])
def test_names_that_are_not_known_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not one of local, routed"):
        Names(("local", "routed")).convert(text, None, None)
