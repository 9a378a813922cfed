"""Pictures of the patterns that a plan uses."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from hcompile.patterns import Dense, Pattern
from hcompile.report.facts import Facts
from hcompile.report.page import Figure, Section, Text
from hcompile.report.svg import MASK, QUIET, cells, draw
from hcompile.report.words import count, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

_CELLS = 64
"""Cells along each side of a picture."""
_SAMPLES = 8
"""Positions along each side of a cell that are looked at."""
_LEVELS = ((0.25, 0.35), (0.5, 0.55), (0.75, 0.78), (1.0, 1.0))
"""Opacity by the share of a cell's pairs that are visible, up to each share."""


def section(facts: Facts) -> Section:
    heads = Counter(
        (pattern, site.causal) for site in facts.sites for pattern in facts.report.plan[site.name]
    )
    length = facts.length
    if not heads or not length:
        return Section("patterns", "Patterns", ((Text("There is no pattern to draw."),),))
    shares = {known: _share(*known, length) for known in heads}
    order = sorted(heads, key=lambda known: (-shares[known], known[0].label(), known[1]))
    pictures = []
    both = len({causal for _, causal in heads}) > 1
    for place, (pattern, causal) in enumerate(order):
        known = pattern, causal
        which = (", causal" if causal else ", both directions") if both else ""
        caption = (
            f"{pattern.label()}{which}: {count(heads[known], 'head')}, {percent(shares[known])} of dense"
        )
        pictures.append(Figure(picture(f"pattern-{place}", pattern, causal, length), caption, small=True))
    told = Text(
        f"Each pattern once, the widest first: queries from top to bottom, keys from left to right, {length} of each. "
        f"A cell is the more solid, the more of the pairs sampled in it are visible ({_SAMPLES} x {_SAMPLES} at most); "
        "the percentage is counted. Of a routed head only the blocks that it reads whatever the text are drawn, and "
        "its percentage is what it was measured to read, with what its choice takes. Of a linear head only what it "
        "sees exactly is drawn; its percentage has what its features take."
    )
    return Section("patterns", "Patterns", ((told,), tuple(pictures)))


def picture(name: str, pattern: Pattern, causal: bool, length: int) -> str:
    """Return the drawing of what a pattern of any family lets `length` queries see of as many keys."""
    shares = _visible(pattern, causal, length)
    return draw(
        name,
        "Which keys each query sees",
        1.45,
        1.45,
        lambda drawing: _paint(drawing, shares),
        laid_out=False,
    )


def _share(pattern: Pattern, causal: bool, length: int) -> float:
    visited, dense = (kind.visited_pairs(length, length, causal=causal) for kind in (pattern, Dense()))
    return visited / dense


def _visible(pattern: Pattern, causal: bool, length: int) -> Any:
    """Return the share of visible pairs by cell: float32 `[N, N]`, queries first, N at most `_CELLS`."""
    import torch

    from hcompile.plot import visibility

    side = min(length, _CELLS)
    samples = min(_SAMPLES, length // side)
    positions = torch.linspace(0, length - 1, side * samples, dtype=torch.float64).long()
    seen = visibility(pattern.at(length), causal, positions).float()
    return seen.reshape(side, samples, side, samples).mean((1, 3)).numpy()


def _paint(drawing: Drawing, shares: Any) -> None:
    axes = drawing.add_axes((0.01, 0.01, 0.98, 0.98))
    side = len(shares)
    low = 0.0
    for high, opacity in _LEVELS:
        chosen = (shares > low) & (shares <= high)
        places = [(first, row, end - first, 1) for row in range(side) for first, end in _runs(chosen[row])]
        if places:
            axes.add_patch(cells(places, facecolor=MASK, alpha=opacity))
        low = high
    axes.set_xlim(0, side)
    axes.set_ylim(side, 0)
    axes.set_aspect("equal")
    axes.xaxis.set_visible(False)
    axes.yaxis.set_visible(False)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(QUIET)


def _runs(row: Any) -> list[tuple[int, int]]:
    """Return the (first, end) of each run of true values."""
    runs: list[tuple[int, int]] = []
    for place, chosen in enumerate(row.tolist()):
        if not chosen:
            continue
        if runs and runs[-1][1] == place:
            runs[-1] = runs[-1][0], place + 1
        else:
            runs.append((place, place + 1))
    return runs
