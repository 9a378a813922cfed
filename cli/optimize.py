"""`hcompile optimize`: a trained model in, a faster one within a quality budget out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hcompile.budget import RESERVE
from hcompile.cli.options import (
    Integers,
    as_json,
    calib,
    database,
    dtype,
    factory,
    lengths,
    metric,
    patterns,
    seed,
    target,
    time_limit,
    trials,
    trust,
)
from hcompile.cli.render import print_json, progress, remark
from hcompile.cli.report import save_page
from hcompile.cli.tables import (
    print_certificate,
    print_crossover,
    print_left,
    print_plan,
    print_work,
    refit_line,
)
from hcompile.codegen.registry import TARGETS
from hcompile.errors import BudgetError
from hcompile.pipeline.request import COSTS, GRANULARITIES, OptimizeRequest
from hcompile.policy.certificate import Certificate
from hcompile.report.place import check_place

if TYPE_CHECKING:
    from hcompile.pipeline.report import OptimizeReport


@click.command()
@click.argument("model")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="What to write: MODEL's name with .hcm by default.",
)
@click.option(
    "--budget",
    multiple=True,
    default=("kl=0.003",),
    show_default=True,
    metavar="METRIC=LIMIT",
    help="The largest loss of quality; several must all hold.",
)
@metric
@calib
@click.option("--verify", metavar="SOURCE", help="Data for certifying only; part of --calib by default.")
@lengths
@click.option(
    "--beyond",
    type=Integers(least=1),
    default=(),
    metavar="N,N,...",
    help="Longer documents to measure what was certified on; the certificate says whether it covers them.",
)
@click.option(
    "--widen",
    is_flag=True,
    help="Let windows widen with the length, so far as the budgets hold at the shorter --lengths too.",
)
@click.option(
    "--documents",
    type=Integers(least=1),
    metavar="P,R,C",
    help="How many documents profile, repair and certify plans, where there are as many; 6,24,48 by default.",
)
@click.option(
    "--granularity",
    type=click.Choice(GRANULARITIES),
    default="head",
    show_default=True,
    help="What has a pattern of its own: a query head, a KV group, or a layer.",
)
@click.option(
    "--keep-layers",
    type=Integers(least=0),
    default=(),
    metavar="N,N,...",
    help="Layers to leave as they are.",
)
@patterns
@click.option(
    "--cost",
    type=click.Choice(COSTS),
    default="time",
    show_default=True,
    help="What a plan is to have little of: time on this machine, or pairs visited.",
)
@click.option(
    "--cost-at",
    type=click.IntRange(min=1),
    metavar="N",
    help="The length whose cost that is: the longest of --lengths by default.",
)
@click.option(
    "--refit",
    is_flag=True,
    help="Fit the layer behind each attention to what is left of it: less loss for the same plan, and new weights.",
)
@click.option(
    "--reserve",
    type=click.FloatRange(0, 1, max_open=True),
    default=RESERVE,
    show_default=True,
    help="Share of each budget to leave alone, for text unlike the calibration's.",
)
@click.option(
    "--plan", type=click.Path(path_type=Path), help="Take the plan of this file instead of choosing one."
)
@click.option("--dry-run", is_flag=True, help="Choose a plan and write it as JSON; no artifact.")
@click.option(
    "--report",
    "page",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write the run as one HTML page: what came out and the figures it rests on.",
)
@target
@trials
@time_limit
@factory
@dtype
@trust
@seed
@database
@as_json
def optimize(as_json: bool, target: str, page: Path | None, **fields: Any) -> None:
    """Make MODEL faster within a quality budget.

    The result is an artifact for hcompile.load. MODEL is a transformers folder, an archive of torch.export.save, or
    weights that belong to --model. Where only the dense model holds the budgets, that is what is written, and the exit
    code is 3.
    """
    request = OptimizeRequest(**fields, backend=TARGETS[target])
    if page is not None:
        check_place(page, request.target)
    from hcompile.pipeline.optimize import optimize as run

    with progress() as report_progress:
        report = run(request, report_progress)
    for warning in report.warnings:
        remark(f"Warning: {warning}")
    if as_json:
        print_json(report.to_json())
    else:
        _show(report)
    if page is not None:
        save_page(page, report)
    if report.outcome == "dense" or report.why_dense:
        what = "plan" if report.outcome == "plan" else "model"
        why = report.why_dense or f"the certified bound of {' and '.join(report.broken)} is above the budget"
        raise BudgetError(
            f"budget {', '.join(request.budgets)}: {why}, so {report.output} is the dense {what}; allow more, or "
            "calibrate on data closer to what the model sees, at a longer length"
        )


def _show(report: OptimizeReport) -> None:
    print_plan(report.plan, report.sites)
    print_left(report.left)
    for length, share in sorted(report.removed.items()):
        click.echo(f"{share:.1%} of the dense pairs removed at {length} tokens")
    if report.refit is not None:
        click.echo(refit_line(report.refit))
    if report.certificate is not None:
        print_certificate(Certificate.from_json(dict(report.certificate)))
    if report.crossover is not None:
        print_crossover(report.crossover)
    click.echo(f"wrote {report.output}")
    print_work(report.stages, report.kernels_measured, report.nodes)
