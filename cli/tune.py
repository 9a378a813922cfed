"""`hcompile tune`: the kernels of an artifact, or of named workloads, tuned for this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hcompile.cli.options import as_json, database, lengths, seed, time_limit, trials
from hcompile.cli.render import milliseconds, print_json, print_table, progress, remark
from hcompile.cli.tables import print_crossover, print_work
from hcompile.codegen.registry import TARGETS
from hcompile.errors import UsageError


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path), required=False)
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    metavar="TEXT",
    help="A call instead of an artifact: 'bfloat16 1x32/8x128 8192x8192 causal: 4 dense, 28 local 512+64'.",
)
@click.option("--target", type=click.Choice(sorted(TARGETS)), help="Where a workload runs: cpu by default.")
@lengths
@trials
@time_limit
@seed
@database
@as_json
def tune(
    artifact: Path | None, workloads: tuple[str, ...], target: str | None, as_json: bool, **fields: Any
) -> None:
    """Tune the kernels of ARTIFACT for this machine, or those of each --workload.

    The artifact is written again with their schedules; its plan and certificate stay. A workload reads: dtype, batch x
    query heads / KV heads x head size, queries x keys, whether causal, and how many heads have which pattern; its best
    schedule goes into the database, where every later run finds it.
    """
    if (artifact is None) == (not workloads):
        raise UsageError("tune wants one thing to tune: an artifact, or --workload")
    if artifact is not None and target is not None:
        raise UsageError(
            "--target is for workloads: an artifact is tuned for the target that it was made for"
        )
    lengths = fields.pop("lengths")
    if artifact is None:
        if lengths is not None:
            raise UsageError("--lengths is for artifacts: a workload names its own")
        _tune_workloads(workloads, TARGETS[target or "cpu"], as_json, fields)
        return
    from hcompile.pipeline.tune import TuneRequest
    from hcompile.pipeline.tune import tune as run

    with progress() as report_progress:
        report = run(TuneRequest(artifact, lengths, **fields), report_progress)
    if as_json:
        print_json(report.to_json())
        return
    print_crossover(report.crossover)
    click.echo(f"wrote {report.artifact}")
    print_work(report.stages, report.kernels_measured, report.nodes)


def _tune_workloads(workloads: tuple[str, ...], backend: str, as_json: bool, fields: dict[str, Any]) -> None:
    from hcompile.pipeline.tune_workloads import WorkloadsRequest, tune_workloads

    with progress() as report_progress:
        report = tune_workloads(WorkloadsRequest(workloads, backend, **fields), report_progress)
    if as_json:
        print_json(report.to_json())
        return
    rows = []
    for each in report.tuned:
        values = ", ".join(f"{axis} {value}" for axis, value in each.schedule.values)
        rows.append((each.workload.label(), milliseconds(each.median_us), each.schedule.template, values))
    print_table(("workload", ">ms", "template", "schedule"), rows)
    remark(f"{report.kernels_measured} kernels measured")
