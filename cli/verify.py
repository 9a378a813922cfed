"""`hcompile verify`: the certificate of an artifact, measured again."""

from __future__ import annotations

from pathlib import Path

import click

from hcompile.cli.options import as_json, metric, seed
from hcompile.cli.render import print_json, progress
from hcompile.cli.tables import print_measured
from hcompile.errors import BudgetError


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("data")
@click.option(
    "--budget",
    multiple=True,
    metavar="METRIC=LIMIT",
    help="Hold it to this budget instead of the artifact's own; several must all hold.",
)
@metric
@click.option(
    "--length",
    type=click.IntRange(min=1),
    help="Tokens of a document, longer ones than the certificate's too; its own by default.",
)
@click.option(
    "--documents", type=click.IntRange(min=1), default=64, show_default=True, help="How many documents."
)
@seed
@as_json
def verify(
    artifact: Path,
    data: str,
    budget: tuple[str, ...],
    metric: str | None,
    length: int | None,
    documents: int,
    seed: int,
    as_json: bool,
) -> None:
    """Measure again, on DATA, what ARTIFACT loses.

    DATA takes the forms of --calib. What is printed ends with whether ARTIFACT's certificate covers documents of that
    length. The exit code is 3 where the budget does not hold.
    """
    from hcompile.pipeline.verify import VerifyRequest
    from hcompile.pipeline.verify import verify as measure

    request = VerifyRequest(artifact, data, budget or None, metric, length, documents, seed)
    with progress() as report_progress:
        report = measure(request, report_progress)
    if as_json:
        print_json(report.to_json())
    else:
        print_measured(report.measured)
        click.echo(report.coverage)
    if not report.measured.holds:
        broken = [claim.metric for claim in report.measured.claims if not claim.holds]
        raise BudgetError(
            f"{artifact} does not hold its budget of {' and '.join(broken)} on {data} at "
            f"{report.measured.longest} tokens: compile the model again with --calib on data like this, or allow more"
        )
