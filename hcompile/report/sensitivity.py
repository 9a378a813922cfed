"""What each head alone, and each layer alone, is predicted to lose: a map, and the largest by name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hcompile.pipeline.ablation import Ablation, Sensitivity
from hcompile.report.page import Block, Figure, Section, Table, Text
from hcompile.report.svg import HYBRID, QUIET, cells, draw
from hcompile.report.words import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

_STEPS = 6
_LARGEST = 8


def section(found: Ablation) -> Section:
    """Return one map and one table for each length and family that was profiled."""
    title = "Heads and layers alone"
    if not found.sensitivities:
        return Section("sensitivity", title, ((Text("No head was profiled."),),))
    rows: list[tuple[Block, ...]] = []
    for number, each in enumerate(found.sensitivities):
        heads = max(map(len, each.heads))
        svg = draw(
            f"sensitivity-{number}",
            "Predicted loss of each head alone, by layer",
            max(4.2, 1.1 + 0.3 * min(heads, 32)),
            1.4 + 0.24 * len(each.heads),
            lambda drawing, each=each: _paint(drawing, each),  # type: ignore[misc]
        )
        patterns = " or ".join(dict.fromkeys(filter(None, each.patterns)))
        caption = (
            f"Predicted {found.metric} that each query head loses under {patterns} with all others dense, at "
            f"{each.length} tokens: the darker the more, each step {_factor(each):.2g} times the one before."
        )
        rows.append((Figure(svg, caption), _table(found, each)))
    return Section("sensitivity", title, tuple(rows))


def _losses(found: Sensitivity) -> list[float]:
    return [loss for row in found.heads for loss in row if loss > 0]


def _factor(found: Sensitivity) -> float:
    losses = _losses(found)
    return (max(losses) / min(losses)) ** (1 / _STEPS) if losses else 1.0


def _paint(drawing: Drawing, found: Sensitivity) -> None:
    axes = drawing.subplots()
    losses = _losses(found)
    low, high = (math.log(end(losses)) for end in (min, max)) if losses else (0.0, 0.0)
    places: dict[int, list[tuple[float, float, float, float]]] = {}
    for layer, row in enumerate(found.heads):
        for head, loss in enumerate(row):
            step = 0
            if loss > 0:
                share = (math.log(loss) - low) / (high - low) if high > low else 1.0
                step = min(_STEPS, 1 + int(share * _STEPS))
            places.setdefault(step, []).append((head - 0.46, layer - 0.46, 0.92, 0.92))
    for step, where in sorted(places.items()):
        axes.add_patch(cells(where, facecolor=HYBRID, alpha=step / _STEPS, edgecolor="none"))
        axes.add_patch(cells(where, facecolor="none", edgecolor=QUIET, linewidth=0.5))
    heads = max(map(len, found.heads))
    axes.set_xlim(-0.5, heads - 0.5)
    axes.set_ylim(len(found.heads) - 0.5, -0.5)
    axes.set_xlabel("query head")
    axes.set_ylabel("layer")
    axes.set_xticks(range(0, heads, max(1, heads // 8)))
    axes.set_yticks(range(0, len(found.heads), max(1, len(found.heads) // 16)))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _table(found: Ablation, each: Sensitivity) -> Table:
    names = [site.name for site in found.sites]
    heads = [
        (loss, f"head {head} of {name}")
        for name, row in zip(names, each.heads, strict=True)
        for head, loss in enumerate(row)
    ]
    layers = [(loss, f"all heads of {name}") for name, loss in zip(names, each.layers, strict=True)]
    rows = tuple(
        (what, figure(loss))
        for group in (heads, layers)
        for loss, what in sorted(group, reverse=True)[:_LARGEST]
    )
    return Table(("alone", f">predicted {found.metric}"), rows, "The largest of both.")
