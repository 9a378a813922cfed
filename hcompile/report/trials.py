"""The choice: every plan that the policy measured, by predicted time and measured loss of quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hcompile.policy.log import Trial
from hcompile.report.facts import Facts
from hcompile.report.page import Block, Figure, Section, Table, Text
from hcompile.report.svg import DENSE, HYBRID, INK, LIMIT, draw
from hcompile.report.words import count, figure, milliseconds, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

_STAGES = {"profile": "around dense", "refine": "around a trial"}


def section(facts: Facts) -> Section:
    policy = facts.report.policy
    if not facts.trials:
        why = "the plan was given" if policy is None else facts.why_dense or "none was needed"
        return Section("trials", "Measured plans", ((Text(f"The policy measured no plan: {why}."),),))
    limits = [float(limit) for limit in (policy or {}).get("limits", ())]
    names = _names(facts, len(facts.trials[0].measured))
    rows: list[tuple[Block, ...]] = []
    for place, name in enumerate(names):
        limit = limits[place] if place < len(limits) else None
        rows.append((_figure(facts, place, name, limit), _table(facts, place, name)))
    if _chosen(facts) is not None and facts.report.outcome == "dense":
        rows.append(
            (Text("The plan marked as chosen was then not certified, so it is not in the artifact."),)
        )
    return Section("trials", "Measured plans", tuple(rows))


def _names(facts: Facts, budgets: int) -> list[str]:
    """Return the metric of each budget."""
    if facts.certificate is not None and len(facts.certificate.claims) == budgets:
        return [claim.metric for claim in facts.certificate.claims]
    asked = list(facts.run.get("budgets", ()))
    if len(asked) == budgets:
        return [text.partition("=")[0].strip() for text in asked]
    return [f"budget {place + 1}" if budgets > 1 else "the budget" for place in range(budgets)]


def _chosen(facts: Facts) -> Trial | None:
    """Return the trial whose plan the policy took, None where it took the dense one."""
    if facts.report.why_dense:
        return None
    accepted = [trial for trial in facts.trials if trial.accepted]
    return min(accepted, key=lambda trial: trial.latency_us, default=None)


def _figure(facts: Facts, place: int, name: str, limit: float | None) -> Figure:
    svg = draw(
        f"trials-{place}",
        "Loss of quality against predicted attention time, by plan",
        4.8,
        3.6,
        lambda drawing: _paint(drawing, facts, place, limit),
    )
    reserve = _within(facts.trials, place)
    kept_back = ""
    if limit is not None and reserve is not None and reserve < limit:
        kept_back = f", dotted: what plans are chosen within ({figure(reserve)})"
    dense = "" if facts.dense_us is None else f" (dense: {milliseconds(facts.dense_us)} ms)"
    line = "" if limit is None else f" Dashed: the limit ({figure(limit)}){kept_back}."
    caption = (
        f"{name}: {count(len(facts.trials), 'plan')}, each measured jointly on {facts.documents('repair')} of "
        f"{facts.length} tokens at most; bars reach up to the bound that a certificate would likely stay below.{line} "
        f"Times are predicted, of one row and without the nodes' launches{dense}. "
        "The thin line joins plans that no other one beats in both."
    )
    return Figure(svg, caption)


def _within(trials: Sequence[Trial], place: int) -> float | None:
    """Return the limit less what is kept back, which each trial's bound was divided by."""
    return next(
        (trial.likely_bound[place] / trial.used[place] for trial in trials if trial.used[place] > 0), None
    )


def _table(facts: Facts, place: int, name: str) -> Table:
    chosen = _chosen(facts)
    rows = []
    for number, trial in enumerate(facts.trials, 1):
        verdict = "chosen" if trial is chosen else "held" if trial.accepted else "not held"
        rows.append(
            (
                str(number),
                _STAGES.get(trial.stage, trial.stage),
                percent(trial.plan.removed_share(facts.sites, facts.length)),
                milliseconds(trial.latency_us),
                figure(trial.measured[place]),
                figure(trial.likely_bound[place]),
                percent(trial.used[place], 0),
                verdict,
            )
        )
    columns = (
        ">plan",
        "scores taken",
        ">pairs removed",
        ">ms",
        f">{name}",
        ">likely bound",
        ">used",
        "verdict",
    )
    return Table(columns, tuple(rows))


def _paint(drawing: Drawing, facts: Facts, place: int, limit: float | None) -> None:
    from matplotlib.ticker import FuncFormatter

    axes = drawing.subplots()
    trials, chosen = facts.trials, _chosen(facts)
    points = [(trial.latency_us / 1000, trial.measured[place]) for trial in trials]
    front = _front(points)
    axes.plot(*zip(*front, strict=True), color=DENSE, linewidth=0.8, zorder=1)
    for trial, (x, y) in zip(trials, points, strict=True):
        axes.plot([x, x], [y, trial.likely_bound[place]], color=HYBRID, linewidth=1.2, alpha=0.6, zorder=2)
    looks: tuple[tuple[str, Any, dict[str, Any]], ...] = (
        ("not held", lambda trial: not trial.accepted, {"marker": "x", "color": LIMIT}),
        ("held", lambda trial: trial.accepted and trial is not chosen, {"marker": "o", "color": HYBRID}),
        ("chosen", lambda trial: trial is chosen, {"marker": "*", "color": INK, "markersize": 13}),
    )
    for label, wanted, look in looks:
        where = [point for trial, point in zip(trials, points, strict=True) if wanted(trial)]
        if where:
            axes.plot(*zip(*where, strict=True), linestyle="none", label=label, zorder=3, **look)
    for number, (x, y) in enumerate(points, 1):
        axes.annotate(str(number), (x, y), (6, -3), textcoords="offset points", fontsize=8.5, va="top")
    if limit is not None:
        axes.axhline(limit, color=LIMIT, linestyle="--", linewidth=1.2)
        within = _within(trials, place)
        if within is not None and within < limit:
            axes.axhline(within, color=LIMIT, linestyle=":", linewidth=1.2)
    highest = max(trial.likely_bound[place] for trial in trials)
    if limit and highest > 10 * limit:
        axes.set_yscale("symlog", linthresh=limit)
        axes.set_ylim(bottom=min(0.0, *(y for _, y in points)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.08)
    axes.set_xlabel("predicted attention time, ms")
    axes.set_ylabel("degradation")
    axes.grid(axis="y")
    drawing.legend(loc="outside upper left", ncols=4, handletextpad=0.3, columnspacing=1.4)


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other one beats in both coordinates, by rising time."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front
