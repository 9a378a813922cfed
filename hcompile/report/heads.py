"""The map of heads: one cell for each query head of each layer, by the share of its pairs that is left."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from hcompile.report.facts import Facts, kept, share_left
from hcompile.report.page import Figure, Section, Table, Text
from hcompile.report.svg import QUIET, cells, draw
from hcompile.report.words import count, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

_CLASSES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_SHADES = ("#eef3f8", "#d3e0ee", "#aac6e0", "#7ba6cf", "#4c80b5", "#285a91")
_KEPT = "#0d2240"
"""One hue, each step darker: the order can be read without colour, and on a dark page too."""
_DARK = 4
"""From this class on, letters are white."""
_LABELLED = 16
"""Beyond this many heads a label would not fit into its cell."""


def section(facts: Facts) -> Section:
    title = "Heads by layer"
    if not facts.sites:
        return Section(
            "heads", title, ((Text("No attention of the model is understood, so none was changed."),),)
        )
    heads = max(site.q_heads for site in facts.sites)
    labelled = heads <= _LABELLED
    left = 0.42 if labelled else max(0.12, 5.6 / heads)
    width, height = 1.1 + left * heads, 1.4 + 0.24 * len(facts.sites)
    svg = draw(
        "heads",
        "Share of pairs left by layer and query head",
        max(width, 4.2),
        height,
        lambda drawing: _paint(drawing, facts, labelled),
    )
    changed = sum(not kept(pattern, site) for site in facts.sites for pattern in facts.report.plan[site.name])
    total = sum(site.q_heads for site in facts.sites)
    in_cells = "Numbers: percent of pairs left; D: " if labelled else "White squares: "
    caption = (
        f"Share of the model's own (query, key) pairs that each query head still visits at {facts.length} tokens, "
        f"counted exactly. {in_cells}as the model has it. {changed} of {count(total, 'head')} changed."
    )
    rows = []
    for site in facts.sites:
        patterns = Counter(pattern.label() for pattern in facts.report.plan[site.name])
        share = sum(share_left(pattern, site, facts.length) for pattern in facts.report.plan[site.name])
        told = ", ".join(f"{number} {label}" for label, number in patterns.most_common())
        rows.append((str(site.layer), site.name, told, percent(share / site.q_heads)))
    gain = "+gain/keys" if facts.report.plan.widens else ""
    columns = (">layer", "attention", f"heads by pattern (window+sinks{gain})", ">pairs left")
    table = Table(columns, tuple(rows))
    return Section("heads", title, ((Figure(svg, caption), table),))


def _paint(drawing: Drawing, facts: Facts, labelled: bool) -> None:
    from matplotlib.patches import Patch

    axes = drawing.subplots()
    sites = facts.sites
    places: dict[int, list[tuple[float, float, float, float]]] = {}
    own: list[tuple[int, int]] = []
    for row, site in enumerate(sites):
        for head, pattern in enumerate(facts.report.plan[site.name]):
            share = share_left(pattern, site, facts.length)
            as_is = kept(pattern, site)
            kind = len(_SHADES) if as_is else _class(share)
            places.setdefault(kind, []).append((head - 0.46, row - 0.46, 0.92, 0.92))
            if as_is:
                own.append((head, row))
            if labelled:
                label = "D" if as_is else f"{100 * share:.2g}"
                color = "#ffffff" if kind >= _DARK else "#10161d"
                axes.text(head, row, label, ha="center", va="center", fontsize=9, color=color)
    shades = (*_SHADES, _KEPT)
    for kind, where in sorted(places.items()):
        axes.add_patch(cells(where, facecolor=shades[kind], edgecolor=QUIET, linewidth=0.5))
    if own and not labelled:
        axes.plot(*zip(*own, strict=True), "s", color="#ffffff", markersize=2)
    heads = max(site.q_heads for site in sites)
    axes.set_xlim(-0.5, heads - 0.5)
    axes.set_ylim(len(sites) - 0.5, -0.5)
    axes.set_xlabel("query head")
    axes.set_ylabel("layer")
    step = 1 if labelled else max(1, heads // 8)
    axes.set_xticks(range(0, heads, step))
    step = max(1, len(sites) // 16)
    axes.set_yticks(range(0, len(sites), step), [str(site.layer) for site in sites[::step]])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    names = [f"up to {100 * high:g} %" for _, high in pairwise(_CLASSES)]
    names[-1] = "more"
    present = [kind for kind in range(len(_SHADES) + 1) if kind in places]
    legend = [
        Patch(facecolor=shades[kind], edgecolor=QUIET, linewidth=0.5, label=(*names, "as it was")[kind])
        for kind in present
    ]
    # A legend fills columns first; people read rows first.
    columns = min(3, len(legend))
    legend = [legend[place] for column in range(columns) for place in range(column, len(legend), columns)]
    drawing.legend(
        handles=legend, loc="outside lower center", ncols=columns, handlelength=1.2, columnspacing=1.2
    )


def _class(share: float) -> int:
    return next((kind for kind, high in enumerate(_CLASSES[1:]) if share <= high), len(_SHADES) - 1)
