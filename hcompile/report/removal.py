"""Removal curves of an ablation: loss of quality against the pairs that are left, beside the controls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hcompile.pipeline.ablation import MAIN, Ablation, Point
from hcompile.report.page import Block, Figure, Section, Table, Text
from hcompile.report.svg import DENSE, HYBRID, INK, LIMIT, QUIET, draw, plain_numbers
from hcompile.report.words import confidence, count, figure, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

_TOLD = {
    "heads": "whole heads by rank",
    "layers": "whole layers by rank",
    "uniform": "one window for all heads",
    "interleaved": "every n-th layer kept",
}
_LOOKS: dict[str, dict[str, Any]] = {
    "heads": {"color": DENSE, "linestyle": "--", "marker": "s"},
    "layers": {"color": DENSE, "linestyle": ":", "marker": "D"},
    "uniform": {"color": QUIET, "linestyle": "-.", "marker": "^"},
    "interleaved": {"color": QUIET, "linestyle": ":", "marker": "v"},
}
_FAMILY_MARKERS = "xP*+"
_NEAR = 0.005
"""Shares of pairs that are nearer than this are compared as equal."""

_LEAST = 1e-12
"""Stands for nothing lost on a logarithmic axis."""


def section(found: Ablation) -> Section:
    """Return the curves, one figure and one table for each length."""
    title = "Quality as attention is removed"
    rows: list[tuple[Block, ...]] = [
        (_figure(found, length), _table(found, length)) for length in found.lengths if _points(found, length)
    ]
    if not rows:
        return Section("removal", title, ((Text("No plan was measured."),),))
    return Section("removal", title, tuple(rows))


def over_lengths(found: Ablation) -> Section | None:
    """Return how much can go within each limit at each length, None where one length or no limit was asked for."""
    verdicts = found.verdicts()
    lengths = sorted({verdict.length for verdict in verdicts})
    if not verdicts:
        return None
    rows = tuple(
        (
            str(verdict.length),
            figure(verdict.limit),
            percent(verdict.held) if verdict.held else "nothing",
            "the most that was measured holds" if verdict.passed is None else percent(verdict.passed),
        )
        for verdict in verdicts
    )
    columns = (">tokens", f">{found.metric} within", ">removed, held", ">removed, not held")
    table = Table(columns, rows, "Held: the whole interval is within the limit, and so are those before it.")
    if len(lengths) < 2:
        return Section("lengths", "How much can go", ((table,),))
    svg = draw(
        "lengths",
        "Share of pairs removed within each limit, by length",
        4.8,
        3.2,
        lambda drawing: _paint_lengths(drawing, found, lengths),
    )
    caption = (
        f"Largest share of pairs removed before an interval of {found.metric} is past the limit. The same documents, "
        "cut to each length."
    )
    return Section("lengths", "How much can go, by length", ((Figure(svg, caption), table),))


def _points(found: Ablation, length: int) -> list[Point]:
    return [point for point in found.points if point.length == length]


def _kinds(points: list[Point]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((point.curve, point.family) for point in points))


def _name(curve: str, family: str, several: bool) -> str:
    if curve == MAIN:
        return f"{family} alone, chosen for each head" if family else "a pattern chosen for each head"
    return _TOLD[curve] + (f" ({family})" if family and several else "")


def _several(points: list[Point]) -> bool:
    return len({point.family for point in points if point.family}) > 1


def _figure(found: Ablation, length: int) -> Figure:
    points = _points(found, length)
    svg = draw(
        f"removal-{length}",
        "Loss of quality against the share of pairs left, by curve",
        5.6,
        4.4,
        lambda drawing: _paint(drawing, found, length),
    )
    caption = (
        f"{found.metric} in {found.unit} at {length} tokens on {count(points[0].documents, 'document')} that the "
        "choice has not seen; each point is one plan, measured as a whole. Band: "
        f"{confidence(found.confidence)} interval over documents."
    )
    if found.limits:
        caption += f" Dashed across: {', '.join(map(figure, found.limits))}."
    return Figure(svg, caption)


def _paint(drawing: Drawing, found: Ablation, length: int) -> None:
    axes: Axes = drawing.subplots()
    points = _points(found, length)
    several = _several(points)
    markers = iter(_FAMILY_MARKERS * len(points))
    for curve, family in _kinds(points):
        mine = found.curve(curve, length, family)
        left = [100 * point.left for point in mine]
        look = {"color": INK, "linestyle": "-", "marker": next(markers)} if curve == MAIN else _LOOKS[curve]
        if (curve, family) == (MAIN, ""):
            look = {"color": HYBRID, "linestyle": "-", "marker": "o", "linewidth": 2.2}
            low, high = ([max(getattr(point, end), _LEAST) for point in mine] for end in ("low", "high"))
            axes.fill_between(left, low, high, color=HYBRID, alpha=0.2, linewidth=0)
        values = [max(point.estimate, _LEAST) for point in mine]
        axes.plot(left, values, markersize=4, label=_name(curve, family, several), **look)
    for limit in found.limits:
        axes.axhline(limit, color=LIMIT, linestyle="--", linewidth=0.9)
    axes.set_yscale("log")
    plain_numbers(axes.yaxis)
    axes.invert_xaxis()
    axes.set_xlabel("percent of the model's own pairs left")
    axes.set_ylabel(f"{found.metric}, {found.unit}")
    axes.grid()
    drawing.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=1)


def _paint_lengths(drawing: Drawing, found: Ablation, lengths: list[int]) -> None:
    axes: Axes = drawing.subplots()
    markers = iter("os^Dv" * len(found.limits))
    for limit in found.limits:
        held = {verdict.length: verdict.held for verdict in found.verdicts() if verdict.limit == limit}
        axes.plot(
            lengths,
            [100 * held[length] for length in lengths],
            color=HYBRID,
            marker=next(markers),
            markersize=5,
            label=f"within {limit:g}",
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.set_xticks([], minor=True)
    axes.set_ylim(0, 100)
    axes.set_xlabel("tokens")
    axes.set_ylabel("percent of pairs removed")
    axes.grid()
    drawing.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)


def _table(found: Ablation, length: int) -> Table:
    points = _points(found, length)
    others = [kind for kind in _kinds(points) if kind != (MAIN, "")]
    by_target = {(point.curve, point.family, point.target): point for point in points}
    several = _several(points)
    rows = []
    for target in sorted({point.target for point in points}, reverse=True):
        main = by_target.get((MAIN, "", target))
        cells = ["", "", ""]
        if main is not None:
            cells = [percent(main.left), figure(main.estimate), f"{figure(main.low)} to {figure(main.high)}"]
        rows.append((*cells, *_controls(by_target, others, target, main)))
    names = [f">{curve} {family}" if several and family else f">{curve}" for curve, family in others]
    columns = (">pairs left", f">{found.metric}", ">interval", *names)
    return Table(columns, tuple(rows), "In parentheses: what a control leaves where that is another share.")


def _controls(
    by_target: dict[tuple[str, str, float], Point],
    others: list[tuple[str, str]],
    target: float,
    main: Point | None,
) -> Iterator[str]:
    for curve, family in others:
        point = by_target.get((curve, family, target))
        if point is None:
            yield ""
        elif main is None or abs(point.left - main.left) > _NEAR:
            yield f"{figure(point.estimate)} ({percent(point.left)})"
        else:
            yield figure(point.estimate)
