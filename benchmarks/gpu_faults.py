"""Tunes on a GPU among 200 bad candidates, and says whether one was chosen, ended the run, or was not recorded rightly.

    python -m benchmarks.gpu_faults [--bad N] [--seconds S] [--results FOLDER]

Bad ones hang in an endless loop on the device, end their process, store where nothing is mapped (in the check, or only
when they are timed), are wrong by 1 %, give NaN, leave a row unwritten, or want more memory than they may have. Each
has two seconds for its check. The right ones are hcompile's own kernel and the reference. Ends with 1 where something
is not as it has to be. With `--backend benchmarks.gpu_fault_backend:twin` it runs without a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, cast

import click

from benchmarks.gpu_fault_backend import NAMES, RIGHT, RIGHT_ONES, WANTED, WORKLOAD, GpuFaults, own_kernel
from benchmarks.record import RESULTS, save
from hcompile.codegen import get_backend
from hcompile.errors import EnvironmentFault, KernelError
from hcompile.tuning.measure import MeasureLimits
from hcompile.tuning.search import SearchOptions
from hcompile.tuning.tune import TuneOptions, Tuner
from hcompile.tuning_db.record import Record
from hcompile.tuning_db.store import open_db

CHECK_S = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bad", type=int, default=200, help="bad candidates, default 200")
    parser.add_argument("--seconds", type=float, default=480, help="no batch begins after this, default 480")
    parser.add_argument("--workers", type=int, default=4, help="processes that build, default 4")
    parser.add_argument("--spares", type=int, help="processes kept ready at most, default as in tuning")
    parser.add_argument("--backend", default="benchmarks.gpu_fault_backend:backend")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    faults = cast(GpuFaults, get_backend(options.backend))
    faults.bad = options.bad
    if faults.device_type == "cuda":
        own_kernel()  # What compiling it takes is no part of the run.
    limits = MeasureLimits(check_s=CHECK_S, time_s=20, workers=options.workers, spares=options.spares)
    measured = run(faults, options.backend, limits, options.seconds)
    click.echo(save("gpu-faults", faults.device(), measured, options.results))
    if measured["complaints"]:
        sys.exit(1)


def run(faults: GpuFaults, backend: str, limits: MeasureLimits, seconds: float) -> dict[str, Any]:
    """Tune into a database of its own, and return what became of the candidates."""
    points = faults.bad + RIGHT_ONES
    search = SearchOptions(strategy="random", trials=points, patience=points, time_limit_s=seconds)
    started, ticks = time.monotonic(), [time.monotonic()]

    def tell(done: int, most: int, best_us: float | None) -> None:
        ticks.append(time.monotonic())
        if done % 10 == 0:
            click.echo(f"{done} of {most} after {ticks[-1] - started:.0f} s, best {best_us} us")

    winner, fatal = None, ""
    with tempfile.TemporaryDirectory() as folder, open_db(Path(folder) / "faults.sqlite") as db:
        try:
            with Tuner(backend, db, TuneOptions(search, limits), tell) as tuner:
                winner = tuner.tune(WORKLOAD)
        except (KernelError, EnvironmentFault) as error:
            fatal = str(error)
        records = db.records()
    wall_s = time.monotonic() - started
    took_s = [after - before for before, after in pairwise(ticks)]
    kinds = by_kind(records)
    for name, row in kinds.items():
        click.echo(f"{name}: {row}")
    complaints = complaints_of(records, winner, fatal, faults.bad)
    click.echo("\n".join([*complaints, f"{len(records)} recorded in {wall_s:.0f} s"]))
    return {
        "check_limit_s": CHECK_S,
        "bad": faults.bad,
        "recorded": len(records),
        "winner": winner and json.loads(winner.schedule),
        "winner_us": winner and winner.median_us,
        "right_us": {
            str(_values(each)["number"]): each.median_us for each in records if _kind(each) == RIGHT
        },
        "kinds": kinds,
        "wall_s": round(wall_s, 1),
        "candidate_s": {"median": round(median(took_s), 2), "most": round(max(took_s), 2)} if took_s else {},
        "complaints": complaints,
    }


def by_kind(records: Sequence[Record]) -> dict[str, Any]:
    """Return of each kind of candidate how many ended in which way, and one of their messages."""
    rows = {}
    for kind, name in enumerate(NAMES):
        mine = [record for record in records if _kind(record) == kind]
        if mine:
            seen = dict(Counter(str(record.status) for record in mine))
            rows[name] = {"wanted": str(WANTED[kind]), "seen": seen, "message": mine[0].message[:200]}
    return rows


def complaints_of(records: Sequence[Record], winner: Record | None, fatal: str, bad: int) -> list[str]:
    """Return what is not as it has to be; of candidates that ended in another way than their kind, up to ten."""
    complaints = [f"fatal: {fatal}"] if fatal else []
    if winner is None or _kind(winner) != RIGHT:
        complaints.append(f"chosen: {winner and winner.schedule}")
    count = sum(_kind(record) != RIGHT for record in records)
    if count != bad:
        complaints.append(f"{count} of {bad} bad candidates are recorded")
    strange = [record for record in records if record.status is not WANTED[_kind(record)]]
    told = [f"{NAMES[_kind(each)]} {each.schedule}: {each.status}, {each.message[:300]}" for each in strange]
    return complaints + told[:10] + ([f"{len(told)} ended in another way than their kind"] if told else [])


def _values(record: Record) -> dict[str, int]:
    values: dict[str, int] = json.loads(record.schedule)["values"]
    return values


def _kind(record: Record) -> int:
    return _values(record)["fault"]


if __name__ == "__main__":
    main()
