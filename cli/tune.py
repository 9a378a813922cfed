"""`hcompile tune`: the kernels of an artifact, tuned for this machine."""

from __future__ import annotations

from pathlib import Path

import click

from hcompile.cli.options import as_json, database, lengths, seed, time_limit, trials
from hcompile.cli.render import print_json, progress
from hcompile.cli.tables import print_crossover, print_work


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@lengths
@trials
@time_limit
@seed
@database
@as_json
def tune(
    artifact: Path,
    lengths: tuple[int, ...] | None,
    trials: int | None,
    time_limit_s: float | None,
    seed: int,
    db: str | None,
    as_json: bool,
) -> None:
    """Tune the kernels of ARTIFACT for this machine.

    The artifact is written again with their schedules; its plan and certificate stay.
    """
    from hcompile.pipeline.tune import TuneRequest
    from hcompile.pipeline.tune import tune as run

    request = TuneRequest(artifact, lengths, trials, time_limit_s, seed, db)
    with progress() as report_progress:
        report = run(request, report_progress)
    if as_json:
        print_json(report.to_json())
        return
    print_crossover(report.crossover)
    click.echo(f"wrote {report.artifact}")
    print_work(report.stages, report.kernels_measured, report.nodes)
