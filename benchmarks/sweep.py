"""Measures every legal schedule of six workloads and records them under benchmarks/results/, for the tuner's tests.

    python -m benchmarks.sweep [--only NAME] [--points N] [--seconds S] [--build] [--cache FOLDER] [--results FOLDER]

Timing needs a machine that does nothing else. A sweep is made in pieces: built kernels and finished points are kept in
the cache folder, so that the same command goes on where it stopped. `--build` builds only, which needs no quiet.
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
from hcompile.codegen import get_backend
from hcompile.patterns import Dense, Local, Pattern
from hcompile.tuning.machine import Machine
from hcompile.tuning.measure import Measurer
from hcompile.tuning.measurement import Measurement
from hcompile.tuning.replay import Sweep
from hcompile.tuning.timing import Rounds
from hcompile.tuning_db.record import Status, utc_now
from hcompile.workload import Workload

BACKEND = "tvm_cpu"
PASSES = 3
"""How often points near the best are timed, at different times: what counts are all their times together."""

ROUNDS = Rounds(least=5, most=20, enough_s=0.08)
SLOW_FACTOR = 1.3
"""Points slower than the best by this factor are timed by one call: they decide nothing."""
CLOSE_FACTOR = 1.15
"""Points slower than the best by this factor are timed in the first pass only."""

BUILT_AT_ONCE = 64


def workloads() -> dict[str, Workload]:
    """Return the workloads by name: few heads where calls would be long, since tiles are shared out, not heads."""
    dense, narrow, wide = Dense(), Local(256, 64), Local(1024, 16)
    return {
        "dense-2048": _workload([dense] * 4, 4, 2048),
        "dense-8192": _workload([dense], 1, 8192),
        "window-256-8192": _workload([narrow] * 8, 8, 8192),
        "window-1024-4096": _workload([wide] * 6, 6, 4096),
        "mixed-gqa-4096": _workload([dense] + [narrow] * 5, 2, 4096),
        "bf16-window-256-8192": _workload([narrow] * 8, 8, 8192, dtype="bfloat16"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=sorted(workloads()))
    parser.add_argument("--points", type=int, help="take the first points only, to try the script")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="stop after this time, to be continued"
    )
    parser.add_argument("--build", action="store_true", help="build kernels, time nothing")
    parser.add_argument("--cache", type=Path, default=Path("build/sweeps"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds
    options.cache.mkdir(parents=True, exist_ok=True)
    threads = get_backend(BACKEND).device().threads
    with Measurer(BACKEND, threads, folder=options.cache.absolute()) as measurer:
        for name, workload in workloads().items():
            target = options.results / f"sweep-{name}.json.gz"
            if options.only in (None, name) and not target.exists():
                piece = Piece(name, workload, options.cache, measurer, options.points)
                if not (piece.build(deadline) and (options.build or piece.measure(deadline))):
                    sys.exit(
                        f"{name}: {len(piece.passes[0])} of {len(piece.schedules)} points are measured: run this again"
                    )
                if not options.build:
                    piece.sweep().save(target)


class Piece:
    """One workload's sweep, as far as it is done."""

    def __init__(
        self, name: str, workload: Workload, cache: Path, measurer: Measurer, points: int | None
    ) -> None:
        self._name = name
        self._workload = workload
        self._measurer = measurer
        self._backend = get_backend(BACKEND)
        self._key = self._backend.record_key(workload)
        self._space = self._backend.space(workload)
        # The default schedule first: a trial run of a few points has it too.
        rest = [schedule for schedule in self._space.enumerate() if schedule != self._space.default()]
        self.schedules = [self._space.default(), *rest][:points]
        self._log = cache / f"{name}-{self._key.digest[:16]}.jsonl"
        self.passes: list[dict[int, Measurement]] = [{} for _ in range(PASSES)]
        for line in self._log.read_text().splitlines() if self._log.exists() else []:
            note = json.loads(line)
            if note[1] < len(self.schedules):  # A trial run of a few points leaves out the rest.
                self._note(*note)

    def build(self, deadline: float) -> bool:
        """Build what is not measured; return whether time sufficed."""
        missing = [
            schedule for position, schedule in enumerate(self.schedules) if position not in self.passes[0]
        ]
        for first in range(0, len(missing), BUILT_AT_ONCE):
            if time.monotonic() > deadline:
                return False
            self._measurer.build(self._workload, missing[first : first + BUILT_AT_ONCE])
            built = min(first + BUILT_AT_ONCE, len(missing))
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
                    rounds = replace(ROUNDS, limit_us=self._best_us() * SLOW_FACTOR)
                    measured = self._measurer.measure(self._workload, schedule, rounds)
                else:
                    measured = self._measurer.time(self._workload, [schedule], ROUNDS)[0]
                self._write(number, position, measured)
        return True

    def sweep(self) -> Sweep:
        """Return the finished sweep."""
        recorded = {
            "at": utc_now(),
            "device": self._key.device.to_json(),
            "versions": dict(self._key.versions),
            "source_sha256": self._key.source_sha256,
            "machine": Machine.current(self._key.device.threads).to_json(),
        }
        points = [self._whole(position) for position in range(len(self.schedules))]
        later = self.passes[1:3]
        repeats = {
            at: (later[0][at].median_us, later[1][at].median_us) for at in later[0].keys() & later[1].keys()
        }
        return Sweep(
            name=self._name,
            workload=self._workload,
            recorded=recorded,
            points=tuple(points),
            features=tuple(tuple(self._space.encode(schedule)) for schedule in self.schedules),
            default=0,
            repeats=repeats,
        )

    def _whole(self, position: int) -> Measurement:
        """Return a point with its times of all passes."""
        seen = [done[position] for done in self.passes if position in done]
        failed = next((each for each in seen if not each.ok), None)
        return failed or replace(seen[0], times_us=tuple(us for each in seen for us in each.times_us))

    def _write(self, number: int, position: int, measured: Measurement) -> None:
        line = (number, position, str(measured.status), list(measured.times_us), measured.message)
        with self._log.open("a") as log:
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
        return first.ok and first.median_us <= self._best_us() * CLOSE_FACTOR

    def _best_us(self) -> float:
        return min((each.median_us for each in self.passes[0].values() if each.ok), default=float("inf"))


def _workload(heads: Sequence[Pattern], kv_heads: int, length: int, dtype: str = "float32") -> Workload:
    return Workload.of(
        heads, kv_heads=kv_heads, head_dim=64, q_len=length, kv_len=length, causal=True, dtype=dtype
    )


if __name__ == "__main__":
    main()
