"""Measures every legal schedule of some workloads and records them under benchmarks/results/, for the tuner's tests.

    python -m benchmarks.sweep [--target cpu|cuda] [--only NAME] [--points N] [--seconds S] [--build]
                               [--cache FOLDER] [--results FOLDER]

Timing needs a machine that does nothing else. A sweep is made in pieces: built kernels and finished points are kept in
the cache folder, so that the same command goes on where it stopped. `--build` builds only, which needs no quiet. What
is swept on a target stands in benchmarks/sweep_targets.py.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from benchmarks.record import RESULTS
from benchmarks.sweep_targets import PASSES, TARGETS, SweepTarget
from hcompile.codegen import get_backend
from hcompile.tuning.features import compiler_features
from hcompile.tuning.machine import Machine
from hcompile.tuning.measure import Measurer
from hcompile.tuning.measurement import Measurement
from hcompile.tuning.replay import Sweep
from hcompile.tuning_db.record import Status, utc_now
from hcompile.workload import Workload


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--target", choices=sorted(TARGETS), default="cpu", help="default cpu")
    parser.add_argument("--only", help="the name of one sweep of the target")
    parser.add_argument("--points", type=int, help="take the first points only, to try the script")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="stop after this time, to be continued"
    )
    parser.add_argument("--build", action="store_true", help="build kernels, time nothing")
    parser.add_argument("--cache", type=Path, default=Path("build/sweeps"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    names = TARGETS[options.target].workloads()
    if options.only not in (None, *names):
        parser.error(f"--only {options.only}: choose one of {', '.join(names)}")
    unfinished = sweep_all(
        TARGETS[options.target],
        options.results,
        options.cache,
        only=options.only,
        points=options.points,
        seconds=options.seconds,
        build=options.build,
    )
    if unfinished:
        sys.exit(unfinished)


def sweep_all(
    target: SweepTarget,
    results: Path,
    cache: Path,
    *,
    only: str | None = None,
    points: int | None = None,
    seconds: float = float("inf"),
    build: bool = False,
) -> str | None:
    """Write the sweeps that are missing in `results`, one after the other.

    Args:
        seconds: time after which no further point is begun.
        build: build only.

    Returns:
        What is unfinished, None when nothing is.
    """
    deadline = time.monotonic() + seconds
    cache.mkdir(parents=True, exist_ok=True)
    results.mkdir(parents=True, exist_ok=True)
    device = get_backend(target.backend).device()
    threads = device.threads if device.kind == "cpu" else 1  # Of the host.
    with Measurer(target.backend, threads, folder=cache.absolute()) as measurer:
        for name, workload in target.workloads().items():
            record = results / f"sweep-{name}.json.gz"
            if only not in (None, name) or record.exists():
                continue
            piece = Piece(name, workload, target, cache, measurer, points)
            if not (piece.build(deadline) and (build or piece.measure(deadline))):
                return f"{name}: {len(piece.passes[0])} of {len(piece.schedules)} points are measured: run this again"
            if not build:
                if not piece.is_right_anywhere():
                    return f"{name}: no point is right, see {piece.log}; delete that to try again"
                piece.sweep().save(record)
    return None


class Piece:
    """One workload's sweep, as far as it is done.

    Attributes:
        schedules: its points; passes: their measurements in each pass, by position.
        log: what is kept of them between runs.
    """

    def __init__(
        self,
        name: str,
        workload: Workload,
        target: SweepTarget,
        cache: Path,
        measurer: Measurer,
        points: int | None,
    ) -> None:
        self._name = name
        self._workload = workload
        self._target = target
        self._measurer = measurer
        # Of several that compete the preferred one: each has a space of its own.
        members = get_backend(target.backend).members
        self._backend = next(member for member in members if member.serves(workload))
        self._key = self._backend.record_key(workload)
        self._space = self._backend.space(workload)
        # The default schedule first: a trial run of a few points has it too.
        rest = [schedule for schedule in self._space.enumerate() if schedule != self._space.default()]
        self.schedules = [self._space.default(), *rest][:points]
        self.log = cache / f"{name}-{self._key.digest[:16]}.jsonl"
        self.passes: list[dict[int, Measurement]] = [{} for _ in range(PASSES)]
        for line in self.log.read_text().splitlines() if self.log.exists() else []:
            note = json.loads(line)
            if note[1] < len(self.schedules):  # A trial run of a few points leaves out the rest.
                self._note(*note)

    def build(self, deadline: float) -> bool:
        """Build what is not measured; return whether time sufficed.

        In random order: neighbours may share their code, which two processes would compile at the same time.
        """
        missing = [
            schedule for position, schedule in enumerate(self.schedules) if position not in self.passes[0]
        ]
        random.Random(0).shuffle(missing)
        step = self._target.built_at_once
        for first in range(0, len(missing), step):
            if time.monotonic() > deadline:
                return False
            self._measurer.build(self._workload, missing[first : first + step])
            built = min(first + step, len(missing))
            click.echo(
                f"\r\x1b[2K{self._name}: {built} of {len(missing)} kernels are built", err=True, nl=False
            )
        return True

    def measure(self, deadline: float) -> bool:
        """Measure in random order, so that a drift of the machine is no axis's fault; return whether time sufficed."""
        for number, done in enumerate(self.passes):
            order = [at for at in range(len(self.schedules)) if number == 0 or self._is_close(at)]
            random.Random(number).shuffle(order)
            for position in [position for position in order if position not in done]:
                if time.monotonic() > deadline:
                    return False
                schedule = self.schedules[position]
                if number == 0:
                    limit_us = self._best_us() * self._target.slow_factor
                    rounds = replace(self._target.rounds, limit_us=limit_us)
                    measured = self._measurer.measure(self._workload, schedule, rounds)
                else:
                    measured = self._measurer.time(self._workload, [schedule], self._target.rounds)[0]
                self._write(number, position, measured)
        return True

    def is_right_anywhere(self) -> bool:
        return any(each.ok for each in self.passes[0].values())

    def sweep(self) -> Sweep:
        """Return the finished sweep."""
        recorded = {
            "at": utc_now(),
            "device": self._key.device.to_json(),
            "versions": dict(self._key.versions),
            "source_sha256": self._key.source_sha256,
            "machine": Machine.of(self._key.device).to_json(),
        }
        points = [self._whole(position) for position in range(len(self.schedules))]
        first, again = self.passes[1:3]
        repeats = {
            at: (first[at].median_us, again[at].median_us)
            for at in first.keys() & again.keys()
            if first[at].ok and again[at].ok
        }
        return Sweep(
            name=self._name,
            workload=self._workload,
            recorded=recorded,
            points=tuple(points),
            features=self._features(),
            default=0,
            repeats=repeats,
        )

    def _features(self) -> tuple[tuple[float, ...], ...]:
        """Return the points as a cost model sees them; an empty row where a search would leave the point out."""
        rows = [tuple(self._space.encode(schedule)) for schedule in self.schedules]
        if not self._backend.compiles_ahead:
            return tuple(rows)
        facts = self._measurer.facts(self._workload, self.schedules)
        return tuple(
            () if found is None else (*row, *compiler_features(found))
            for row, found in zip(rows, facts, strict=True)
        )

    def _whole(self, position: int) -> Measurement:
        """Return a point with its times of all passes."""
        seen = [done[position] for done in self.passes if position in done]
        failed = next((each for each in seen if not each.ok), None)
        return failed or replace(seen[0], times_us=tuple(us for each in seen for us in each.times_us))

    def _write(self, number: int, position: int, measured: Measurement) -> None:
        line = (number, position, str(measured.status), list(measured.times_us), measured.message)
        with self.log.open("a") as log:
            log.write(json.dumps(line) + "\n")
        self._note(*line)
        done = len(self.passes[number])
        click.echo(
            f"\r\x1b[2K{self._name}: pass {number}, {done} points, {measured.status}", err=True, nl=False
        )

    def _note(self, number: int, position: int, status: str, times_us: Sequence[float], message: str) -> None:
        measured = Measurement(self.schedules[position], Status(status), tuple(times_us), message=message)
        self.passes[number][position] = measured

    def _is_close(self, position: int) -> bool:
        first = self.passes[0][position]
        return first.ok and first.median_us <= self._best_us() * self._target.close_factor

    def _best_us(self) -> float:
        return min((each.median_us for each in self.passes[0].values() if each.ok), default=float("inf"))


if __name__ == "__main__":
    main()
