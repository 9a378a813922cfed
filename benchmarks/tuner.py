"""Prints how good the tuner is on the recorded sweeps: nothing is measured, so it runs on any machine.

python -m benchmarks.tuner [--target cpu|cuda] [--json] [--results FOLDER]
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.record import RESULTS
from hcompile.codegen import get_backend
from hcompile.schedules import Schedule
from hcompile.schedules.template import get_template
from hcompile.tuning.evaluate import EARLY_TRIALS, NEAR, NEAR_ON_GPU, SweepReport, report
from hcompile.tuning.ranking import TOP
from hcompile.tuning.replay import Sweep

NEAR_ON = {"cpu": NEAR, "cuda": NEAR_ON_GPU}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--target", choices=sorted(NEAR_ON), default="cpu", help="default cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    sweeps = [as_a_search_begins(sweep) for sweep in sweeps_of(options.target, options.results)]
    if len(sweeps) < 2:
        command = f"python -m benchmarks.sweep --target {options.target}"
        sys.exit(f"{options.results}: fewer than two sweeps of {options.target}: make some with {command}")
    near = NEAR_ON[options.target]
    rows = report(sweeps, near=near)
    if options.json:
        recorded = {sweep.name: dict(sweep.recorded) for sweep in sweeps}
        click.echo(
            json.dumps({"near": near, "recorded": recorded, "sweeps": [row.to_json() for row in rows]})
        )
    else:
        Console(width=190).print(table(rows, near))


def sweeps_of(kind: str, results: Path = RESULTS) -> list[Sweep]:
    """Return the recorded sweeps of a kind of device, in the order of their files."""
    sweeps = [Sweep.load(path) for path in sorted(results.glob("sweep-*.json.gz"))]
    return [sweep for sweep in sweeps if sweep.recorded["device"]["kind"] == kind]


def as_a_search_begins(sweep: Sweep) -> Sweep:
    """Return the sweep with the schedules that a search would begin with now; a CPU's has this machine's space."""
    places = {point.schedule: place for place, point in enumerate(sweep.points)}
    starts = [places.get(start) for start in _starts(sweep)]
    known = [place for place in starts if place is not None]
    return replace(sweep, default=known[0], also=tuple(known[1:])) if known else sweep


def _starts(sweep: Sweep) -> tuple[Schedule, ...]:
    device, workload = sweep.recorded["device"], sweep.workload
    if device["kind"] == "cpu":
        return get_backend("tvm_cpu").space(workload).starts()
    from hcompile.codegen.triton_gpu.ahead import problem_of

    problem = problem_of(workload.dtype, workload.head_dim, int(device["isa"].removeprefix("sm_")))
    return get_template(sweep.template).space(problem).starts()


def table(rows: list[SweepReport], near: float) -> Table:
    """Return the reports as a table for people."""
    title = (
        f"Trials to within {near:.0%} of the exhaustive best, median of 10 seeds; losses against that best"
    )
    drawn = Table(title=title)
    for heading in ("sweep", "points", "best us", f"within {near:.0%}", "noise"):
        drawn.add_column(heading)
    for heading in ("random", "xgboost", "after others", "default", "fixed", "found", "in trials"):
        drawn.add_column(heading, justify="right")
    for heading in ("rank", f"top {TOP}", f"in {EARLY_TRIALS}", "after lengths"):
        drawn.add_column(heading, justify="right")
    for row in rows:
        after_lengths = row.early_loss_after_lengths
        drawn.add_row(
            row.name,
            str(row.points),
            f"{row.best_us:.{0 if row.best_us >= 1000 else 1}f}",
            f"{row.near_share:.1%}",
            f"{row.noise:.1%}",
            *(f"{row.trials[name]:g}" for name in ("random", "xgboost")),
            f"{row.trials_after_others:g}",
            *(f"{loss:.1%}" for loss in (row.default_loss, row.fixed_loss, row.found_loss)),
            f"{row.found_trials:g}",
            f"{row.rank_correlation:.2f}",
            *(f"{loss:.1%}" for loss in (row.top_regret, row.early_loss)),
            "-" if after_lengths is None else f"{after_lengths:.1%}",
        )
    return drawn


if __name__ == "__main__":
    main()
