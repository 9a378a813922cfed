"""Prints how good the tuner is on the recorded sweeps: nothing is measured, so it runs on any machine.

python -m benchmarks.tuner [--json] [--results FOLDER]
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
from hcompile.tuning.evaluate import NEAR, SweepReport, report
from hcompile.tuning.replay import Sweep


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    sweeps = [
        _as_a_search_begins(Sweep.load(path)) for path in sorted(options.results.glob("sweep-*.json.gz"))
    ]
    if len(sweeps) < 2:
        sys.exit(f"{options.results}: fewer than two sweeps: make some with python -m benchmarks.sweep")
    rows = report(sweeps)
    if options.json:
        recorded = {sweep.name: dict(sweep.recorded) for sweep in sweeps}
        click.echo(
            json.dumps({"near": NEAR, "recorded": recorded, "sweeps": [row.to_json() for row in rows]})
        )
    else:
        Console(width=140).print(table(rows))


def _as_a_search_begins(sweep: Sweep) -> Sweep:
    """Return the sweep with the schedules that a search would begin with now, where this machine has the same space."""
    places = {point.schedule: place for place, point in enumerate(sweep.points)}
    starts = [places.get(start) for start in get_backend("tvm_cpu").space(sweep.workload).starts()]
    known = [place for place in starts if place is not None]
    return replace(sweep, default=known[0], also=tuple(known[1:])) if known else sweep


def table(rows: list[SweepReport]) -> Table:
    """Return the reports as a table for people."""
    near = f"{NEAR:.0%}"
    drawn = Table(
        title=f"Trials to within {near} of the exhaustive best, median of 10 seeds; losses against that best"
    )
    for heading in ("sweep", "points", "best us", f"within {near}", "noise"):
        drawn.add_column(heading)
    for heading in ("random", "xgboost", "after others", "default", "fixed", "found", "in trials"):
        drawn.add_column(heading, justify="right")
    for row in rows:
        drawn.add_row(
            row.name,
            str(row.points),
            f"{row.best_us:.0f}",
            f"{row.near_share:.1%}",
            f"{row.noise:.1%}",
            *(f"{row.trials[name]:g}" for name in ("random", "xgboost")),
            f"{row.trials_after_others:g}",
            *(f"{loss:.1%}" for loss in (row.default_loss, row.fixed_loss, row.found_loss)),
            f"{row.found_trials:g}",
        )
    return drawn


if __name__ == "__main__":
    main()
