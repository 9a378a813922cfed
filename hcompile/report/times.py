"""Where the time goes: attention node by node, attention against the rest of a call, and the stages of the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hcompile.report.facts import Facts
from hcompile.report.page import Block, Figure, Section, Table, Text
from hcompile.report.svg import DENSE, HYBRID, draw
from hcompile.report.words import NONE, milliseconds, percent, seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

    from hcompile.pipeline.report import NodeTime
    from hcompile.runtime.crossover import Timing


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
        (layers.get(node.site, ""), milliseconds(node.predicted_us), _told(_measured(node))) for node in nodes
    ]
    predicted_us = sum(node.predicted_us for node in nodes)
    table.append(("all", milliseconds(predicted_us), _told(_all_measured(nodes))))
    caption = (
        f"Attention of one row of {nodes[0].length} tokens under the plan, by layer. Predicted: a constant for "
        "the launch, and the time of each head in a node of heads alike. Measured: the node's own kernel, its median. "
        f"Kernels timed in this run: {facts.report.kernels_measured}; what others take was known from earlier ones."
    )
    return Figure(svg, caption), Table((">layer", ">predicted ms", ">measured ms"), tuple(table))


def _measured(node: NodeTime) -> float | None:
    """Return the measured time; a node whose kernel has none of its own was given the predicted one."""
    return None if node.measured_us == node.predicted_us else node.measured_us


def _all_measured(nodes: Sequence[NodeTime]) -> float | None:
    times = [_measured(node) for node in nodes]
    return None if None in times else sum(time for time in times if time is not None)


def _told(time_us: float | None) -> str:
    return NONE if time_us is None else milliseconds(time_us)


def _paint_nodes(drawing: Drawing, facts: Facts, layers: list[str]) -> None:
    axes = drawing.subplots()
    nodes = facts.report.nodes
    places = range(len(nodes))
    for shift, color, label, times in (
        (-0.2, DENSE, "predicted", [node.predicted_us for node in nodes]),
        (0.2, HYBRID, "measured", [_measured(node) or 0.0 for node in nodes]),
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
    whole = [each for each in facts.crossover.timings if (each.batch, each.length) == (1, length)]
    attention_us = _all_measured(nodes)
    if not whole:
        why = f"a call of 1 x {length} tokens was not timed as a whole"
    elif attention_us is None:
        why = "not every node has a time of its own"
    elif attention_us > whole[0].hybrid_us:
        why = "the nodes, timed by themselves, took longer than a whole call"
    else:
        return [(_parts(attention_us, whole[0]),)]
    return [(Text(f"What the rest of a call takes is not known: {why}."),)]


def _parts(attention_us: float, timing: Timing) -> Table:
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
    caption = (
        f"One call of 1 x {timing.length} tokens. The nodes were timed when they were tuned, the calls at the end: how "
        "they compare depends on what else the machine did. How much of the dense call is attention was not measured."
    )
    return Table(("part", ">ms", ">of the hybrid call"), rows, caption)


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
