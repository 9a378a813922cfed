"""Whole calls, dense and hybrid, by batch and length, and from where on calls take the hybrid graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hcompile.report.facts import Facts
from hcompile.report.page import Block, Figure, Section, Table, Text
from hcompile.report.svg import DENSE, HYBRID, INK, draw, plain_numbers
from hcompile.report.words import milliseconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from hcompile.runtime.crossover import Crossover


def section(facts: Facts) -> Section:
    title = "Dense or hybrid, by length"
    known = facts.crossover
    if not known.timings:
        why = {
            "dense": "the model stays dense, so every call takes the dense graph",
            "plan": "a dry run times none",
        }
        reason = why.get(facts.report.outcome, "none was measured")
        return Section("crossover", title, ((Text(f"No whole calls were timed: {reason}."),),))
    batches = sorted({timing.batch for timing in known.timings})
    svg = draw(
        "crossover",
        "Time of whole calls, dense and hybrid, by length and batch",
        4.8,
        0.9 + 1.9 * len(batches),
        lambda drawing: _paint(drawing, known, batches),
    )
    rounds = facts.run.get("rounds")
    often = f"{rounds[0]} to {rounds[1]} calls of each graph" if rounds else "several calls of each graph"
    caption = (
        f"Median time of a whole call without padding, {often}, interleaved, on made-up inputs. "
        "Vertical line: from there on calls take the hybrid graph."
    )
    rows = tuple(
        (
            str(timing.batch),
            str(timing.length),
            milliseconds(timing.dense_us),
            milliseconds(timing.hybrid_us),
            f"{timing.dense_us / timing.hybrid_us:.2f}x" if timing.hybrid_us else "",
            "hybrid" if known.takes_hybrid(timing.batch, timing.length) else "dense",
        )
        for timing in known.timings
    )
    table = Table((">batch", ">tokens", ">dense ms", ">hybrid ms", ">dense / hybrid", "calls take"), rows)
    told: list[tuple[Block, ...]] = [(Text(line),) for line in _starts(known)]
    return Section("crossover", title, ((Figure(svg, caption), table), *told))


def _starts(known: Crossover) -> list[str]:
    lines = []
    for batch, start in known.hybrid_from:
        more = " and more" if batch == known.hybrid_from[-1][0] else ""
        graph = (
            "the dense graph at every length" if start is None else f"the hybrid graph from {start} tokens on"
        )
        lines.append(f"batch {batch}{more}: {graph}")
    return [f"Calls take, by rows: {'; '.join(lines)}."] if lines else []


def _paint(drawing: Drawing, known: Crossover, batches: list[int]) -> None:
    panels = drawing.subplots(len(batches), 1, sharex=True, squeeze=False).flatten()
    starts = dict(known.hybrid_from)
    for axes, batch in zip(panels, batches, strict=True):
        row = [timing for timing in known.timings if timing.batch == batch]
        lengths = [timing.length for timing in row]
        axes.plot(
            lengths,
            [timing.dense_us / 1000 for timing in row],
            "s--",
            color=DENSE,
            markersize=4,
            label="dense",
        )
        axes.plot(
            lengths,
            [timing.hybrid_us / 1000 for timing in row],
            "o-",
            color=HYBRID,
            markersize=4,
            label="hybrid",
        )
        start = starts.get(batch)
        if start is not None:
            axes.axvline(start, color=INK, linewidth=0.9)
        axes.set_yscale("log")
        plain_numbers(axes.yaxis)
        axes.set_title(f"batch {batch}", loc="left")
        axes.set_ylabel("ms")
        axes.grid()
    _label_lengths(panels[-1], sorted({timing.length for timing in known.timings}))
    drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)


def _label_lengths(axes: Axes, lengths: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("tokens")
