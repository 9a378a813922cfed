"""Where the time goes: attention node by node, attention against the rest of a call, and the stages of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hcompile.report.facts import Facts
from hcompile.report.page import Block, Figure, Section, Table, Text
from hcompile.report.svg import DENSE, HYBRID, draw
from hcompile.report.words import NONE, count, milliseconds, percent, seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


def section(facts: Facts) -> Section:
    report = facts.report
    rows: list[tuple[Block, ...]] = []
    if report.nodes:
        rows.append(_nodes(facts))
        rows += _whole(facts)
    else:
        why = "a dry run times none" if report.outcome == "plan" else "the model stays dense"
        rows.append((Text(f"There are no times of attention nodes: {why}."),))
    if report.stages:
        rows.append(_stages(facts))
    return Section("times", "Where the time goes", tuple(rows))


def _nodes(facts: Facts) -> tuple[Block, ...]:
    nodes = facts.report.nodes
    layers = {site.name: str(site.layer) for site in facts.sites}
    svg = draw(
        "nodes",
        "Predicted and measured time by attention node",
        4.8,
        1.0 + 0.3 * len(nodes),
        lambda drawing: _paint_nodes(drawing, facts, [layers.get(node.site, "") for node in nodes]),
    )
    table = [
        (
            layers.get(node.site, ""),
            milliseconds(node.predicted_us),
            _measured(node.predicted_us, node.measured_us),
        )
        for node in nodes
    ]
    predicted, measured = sum(node.predicted_us for node in nodes), sum(node.measured_us for node in nodes)
    table.append(("all", milliseconds(predicted), milliseconds(measured)))
    caption = (
        f"Attention of one row of {nodes[0].length} tokens under the plan, by layer: what plans were compared by, and "
        f"the median time of the kernel that the node got. {count(facts.report.kernels_measured, 'kernel')} were timed "
        "in this run; the others were known from earlier ones."
    )
    return Figure(svg, caption), Table((">layer", ">predicted ms", ">measured ms"), tuple(table))


def _measured(predicted_us: float, measured_us: float) -> str:
    # A node whose kernel has no time of its own is given the predicted one.
    return NONE if measured_us == predicted_us else milliseconds(measured_us)


def _paint_nodes(drawing: Drawing, facts: Facts, layers: list[str]) -> None:
    axes = drawing.subplots()
    nodes = facts.report.nodes
    places = range(len(nodes))
    for shift, color, label, times in (
        (-0.2, DENSE, "predicted", [node.predicted_us for node in nodes]),
        (0.2, HYBRID, "measured", [node.measured_us for node in nodes]),
    ):
        axes.barh(
            [place + shift for place in places], [us / 1000 for us in times], 0.36, color=color, label=label
        )
    axes.set_yticks(places, layers)
    axes.set_ylim(len(nodes) - 0.4, -0.6)
    axes.set_ylabel("layer")
    axes.set_xlabel("ms")
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    drawing.legend(loc="outside upper left", ncols=2, handlelength=1.2)


def _whole(facts: Facts) -> list[tuple[Block, ...]]:
    """Set attention against the rest, where a call of one row was timed at the length of the nodes."""
    nodes = facts.report.nodes
    length = nodes[0].length
    timing = next(
        (each for each in facts.crossover.timings if (each.batch, each.length) == (1, length)), None
    )
    attention_us = sum(node.measured_us for node in nodes)
    if timing is None or attention_us > timing.hybrid_us:
        told = (
            f"A call of 1 x {length} tokens was not timed as a whole, so the rest of its time is not known."
        )
        if timing is not None:
            told = (
                "The nodes, timed by themselves, took longer than the whole call, so the rest is not known."
            )
        return [(Text(told),)]
    rest_us = timing.hybrid_us - attention_us
    rows = (
        (
            "attention, nodes timed by themselves",
            milliseconds(attention_us),
            percent(attention_us / timing.hybrid_us, 0),
        ),
        ("the rest (difference)", milliseconds(rest_us), percent(rest_us / timing.hybrid_us, 0)),
        ("hybrid call", milliseconds(timing.hybrid_us), percent(1.0, 0)),
        ("dense call", milliseconds(timing.dense_us), percent(timing.dense_us / timing.hybrid_us, 0)),
    )
    caption = f"One call of 1 x {length} tokens. How much of the dense call is attention was not measured."
    return [(Table(("part", ">ms", ">of the hybrid call"), rows, caption),)]


def _stages(facts: Facts) -> tuple[Block, ...]:
    stages = facts.report.stages
    total = sum(stages.values())
    svg = draw(
        "stages",
        "Seconds by stage of the run",
        4.8,
        0.75 + 0.27 * len(stages),
        lambda drawing: _paint_stages(drawing, facts),
    )
    rows = [
        (name, seconds(time_s), percent(time_s / total, 0) if total else "")
        for name, time_s in stages.items()
    ]
    rows.append(("all", seconds(total), ""))
    caption = (
        "Stages of this run, each measured once; what an earlier run has measured comes from the tuning database "
        "and costs next to nothing here."
    )
    return Figure(svg, caption), Table(("stage", ">time", ">share"), tuple(rows))


def _paint_stages(drawing: Drawing, facts: Facts) -> None:
    axes = drawing.subplots()
    stages = facts.report.stages
    axes.barh(range(len(stages)), list(stages.values()), 0.6, color=HYBRID)
    axes.set_yticks(range(len(stages)), list(stages))
    axes.set_ylim(len(stages) - 0.4, -0.6)
    axes.set_xlabel("s")
    axes.grid(axis="x")
    axes.set_axisbelow(True)
