"""Drawings that stand in a page: their colours, ids and texts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import matplotlib
import pytest

from hcompile.report import svg
from tests.report.html import read

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def paint(figure: Figure) -> None:
    axes = figure.subplots()
    axes.plot([1, 2], [1, 10], "o-", color=svg.HYBRID, label="$a_1^$ <b>")
    axes.add_patch(svg.cells([(1.0, 2.0, 0.5, 0.5)], facecolor=svg.MASK))
    axes.set_yscale("log")
    svg.plain_numbers(axes.yaxis)
    axes.legend()


def test_colours_are_the_pages_and_ids_its_own() -> None:
    drawn = svg.draw("one", "A line", 3, 2, paint)
    page = read(drawn)
    assert not re.search(r"#0101[0-9a-f]{2}", drawn) and "var(--hybrid)" in drawn and "var(--mask)" in drawn
    assert all(name.startswith("one-") for name in page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert page.elements[0][0] == "svg" and page.elements[0][1]["aria-label"] == "A line"
    assert ("g", {"class": "exact"}) in page.elements
    assert not {"style", "metadata", "image"} & {name for name, _ in page.elements}


def test_text_is_text_and_never_mathematics() -> None:
    page = read(svg.draw("one", "A line", 3, 2, paint))
    assert "$a_1^$ <b>" in page.text and {"1", "2", "5", "10"} <= {text.strip() for text in page.texts}


def test_drawing_depends_on_no_settings_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = svg.draw("one", "A line", 3, 2, paint)
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 7)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    assert svg.draw("one", "A line", 3, 2, paint) == plain
    assert matplotlib.rcParams["lines.linewidth"] == 7
