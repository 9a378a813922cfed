"""Pictures of plans."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hcompile.errors import EnvironmentFault, UsageError
from hcompile.patterns import Dense, Local
from hcompile.plan import Plan
from hcompile.plot import draw, save_picture
from hcompile.site import Site

SITES = tuple(Site(f"layer{index}", index, 4, 2, 16, 0.25, causal=index == 0) for index in range(2))
PLAN = Plan.of(
    {"layer0": [Dense(), Local(64, 4), Local(64, 4), Local(8)], "layer1": [Dense(), *[Local(8)] * 3]}
)


def test_every_distinct_pattern_is_drawn_once_and_every_head_labelled() -> None:
    figure = draw(PLAN, SITES, length=512)
    above, below = figure.subfigs
    titles = [axes.get_title().partition("\n")[0] for axes in above.axes if axes.axison]
    # Causal and bidirectional sites draw a pattern differently, so each counts.
    assert sorted(titles) == ["dense", "dense", "local 64+4", "local 8+0", "local 8+0"]
    labels = [text.get_text() for text in below.axes[0].texts]
    assert labels == ["dense", "64+4", "64+4", "8+0", "dense", "8+0", "8+0", "8+0"]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_picture_is_written_in_the_format_of_its_ending(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"plan{suffix}"
    save_picture(path, PLAN, SITES)
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert path.read_bytes().startswith(starts[suffix])


def test_unknown_ending_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no known ending: choose one of \.pdf, \.png, \.svg$"):
        save_picture(tmp_path / "plan.bmp", PLAN, SITES)


def test_place_that_cannot_be_written_is_a_usage_error_and_leaves_nothing(tmp_path: Path) -> None:
    taken = tmp_path / "plan.png"
    taken.mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        save_picture(taken, PLAN, SITES)
    assert list(tmp_path.iterdir()) == [taken]


def test_missing_matplotlib_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(EnvironmentFault, match=r"pip install 'hcompile\[plot\]'$"):
        save_picture(tmp_path / "plan.png", PLAN, SITES)
