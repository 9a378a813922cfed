"""`hcompile ablate`: how much attention can go before quality does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hcompile.cli.options import (
    Duration,
    as_json,
    calib,
    database,
    dtype,
    factory,
    lengths,
    patterns,
    seed,
    target,
    trust,
)
from hcompile.cli.render import print_json, print_table, progress, remark
from hcompile.cli.report import save_page
from hcompile.codegen.registry import TARGETS
from hcompile.errors import BudgetError
from hcompile.report.place import check_place

if TYPE_CHECKING:
    from hcompile.pipeline.ablation import Ablation, Point, Sensitivity, Verdict
    from hcompile.site import Site

_NAMED = 3
"""Heads that are named as the most sensitive ones."""


@click.command()
@click.argument("model")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PREFIX",
    help="Where the curves go: PREFIX.csv and PREFIX.json, or into a folder; MODEL's name by default.",
)
@click.option("--budget", metavar="METRIC=LIMIT", help="Say how much can go within this loss of quality.")
@click.option(
    "--metric",
    metavar="NAME",
    help="What to measure, or MODULE:FUNCTION; the budget's metric, else kl or cosine by default.",
)
@calib
@click.option("--verify", metavar="SOURCE", help="Data to measure on; part of --calib by default.")
@lengths
@patterns
@click.option(
    "--points",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Plans of each curve, equal factors of what is left apart.",
)
@click.option(
    "--report",
    "page",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write the curves as one HTML page.",
)
@target
@click.option(
    "--time-limit", "time_limit_s", type=Duration(), help="Measure no plan after this time, such as 20m."
)
@factory
@dtype
@trust
@seed
@database
@as_json
def ablate(as_json: bool, target: str, page: Path | None, **fields: Any) -> None:
    """Measure how MODEL's quality falls as its attention is removed.

    Each plan is measured as a whole, on documents that its choice has not seen, beside controls that leave as many
    (query, key) pairs: whole heads and whole layers by rank, one window for all heads, and every n-th layer kept. No
    artifact is written and no kernel tuned. Where no measured plan holds --budget, the exit code is 3.
    """
    from hcompile.pipeline.ablate import AblateRequest
    from hcompile.pipeline.ablate import ablate as run

    request = AblateRequest(**fields, backend=TARGETS[target])
    if page is not None:
        for other in (request.target(".csv"), request.target(".json")):
            check_place(page, other)
    with progress() as report_progress:
        found = run(request, report_progress)
    for warning in found.warnings:
        remark(f"Warning: {warning}")
    if as_json:
        print_json(found.to_json())
    else:
        _show(found)
        click.echo(f"wrote {request.target('.csv')} and {request.target('.json')}")
    if page is not None:
        save_page(page, found)
    if found.budget and found.points and not any(verdict.held for verdict in found.verdicts()):
        raise BudgetError(
            f"budget {found.budget}: no measured plan holds it at {' or '.join(map(str, found.lengths))} tokens; allow "
            "more, or take more --points"
        )


def _show(found: Ablation) -> None:
    click.echo(
        f"{found.metric} in {found.unit}, with {100 * found.confidence:g}% intervals over documents; "
        "left: share of the model's own (query, key) pairs"
    )
    click.echo(
        "first a pattern for each head by the profile; beside it, at as many pairs or (fewer): whole heads and whole "
        "layers by rank, one window for all, every n-th layer kept"
    )
    for length in found.lengths:
        points = [point for point in found.points if point.length == length]
        if points:
            click.echo(f"\n{length} tokens, {points[0].documents} documents from {found.source}")
            print_table(*_table(points, found))
    click.echo()
    for sensitivity in found.sensitivities:
        click.echo(_most_sensitive(sensitivity, found.sites))
    for sentence in _sentences(found):
        click.echo(sentence)


def _most_sensitive(found: Sensitivity, sites: Sequence[Site]) -> str:
    """Return a line on the heads that are predicted to lose the most alone."""
    losses = [
        (loss, site.name, head)
        for site, row in zip(sites, found.heads, strict=True)
        for head, loss in enumerate(row)
    ]
    largest = sorted(losses, reverse=True)[:_NAMED]
    heads = ", ".join(f"{loss:.2g} head {head} of {name}" for loss, name, head in largest)
    patterns = " or ".join(dict.fromkeys(filter(None, found.patterns)))
    return f"{found.length} tokens: predicted to lose the most alone under {patterns}: {heads}"


def _table(points: Sequence[Point], found: Ablation) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows: one row for each target, the main curve first and the others beside it."""
    from hcompile.pipeline.ablation import MAIN

    kinds = list(dict.fromkeys((point.curve, point.family) for point in points))
    several = len({family for _, family in kinds if family}) > 1
    main, others = (MAIN, ""), [kind for kind in kinds if kind != (MAIN, "")]
    columns = [">left", f">{found.metric}", ">low", ">high"]
    columns += [f">{curve} {family}" if several else f">{curve}" for curve, family in others]
    by_target = {(point.curve, point.family, point.target): point for point in points}
    rows = []
    for asked in sorted({point.target for point in points}, reverse=True):
        point = by_target.get((*main, asked))
        row = ["-"] * 4 if point is None else [_percent(point.left), *_figures(point)]
        for kind in others:
            other = by_target.get((*kind, asked))
            aside = other is not None and point is not None and abs(other.left - point.left) > 0.005
            row.append(
                "-"
                if other is None
                else f"{other.estimate:.2g}" + (f" ({_percent(other.left)})" if aside else "")
            )
        rows.append(row)
    return columns, rows


def _figures(point: Point) -> list[str]:
    return [f"{value:.2g}" for value in (point.estimate, point.low, point.high)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _sentences(found: Ablation) -> Iterator[str]:
    """Yield one sentence for each length: how much can go."""
    by_length: dict[int, list[Verdict]] = {}
    for verdict in found.verdicts():
        by_length.setdefault(verdict.length, []).append(verdict)
    for length, verdicts in by_length.items():
        parts = [_part(verdict) for verdict in verdicts]
        yield f"{length} tokens: the interval of {found.metric} stays within {'; '.join(parts)}"
    if not found.limits:
        yield f"pass --budget {found.metric}=LIMIT for how much can go within it"


def _part(verdict: Verdict) -> str:
    held = f"{verdict.limit:g} with {_percent(verdict.held)} of the pairs removed"
    if verdict.passed is None:
        return f"{held}, the most that was measured"
    return f"{held}, not with {_percent(verdict.passed)}"
