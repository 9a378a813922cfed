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

from hcompile.codegen import get_backend
from hcompile.patterns import Dense, Local, Pattern
from hcompile.schedules import Schedule
from hcompile.tuning.machine import Machine
from hcompile.tuning.measure import Measurer
from hcompile.tuning.measurement import Measurement
from hcompile.tuning.replay import Sweep
from hcompile.tuning.timing import Rounds
from hcompile.tuning_db.record import Status, utc_now
from hcompile.workload import Workload

BACKEND = "tvm_cpu"
RESULTS = Path(__file__).parent / "results"
RETIMED = 40
"""Points timed again at the end of a sweep for the noise floor: half of them the fastest."""

ROUNDS = Rounds(least=5, most=20, enough_s=0.08)
SLOW_FACTOR = 1.3
"""Points slower than the best by this factor are timed by one call: they decide nothing."""

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
                        f"{name}: {len(piece.done)} of {len(piece.schedules)} points are measured: run this again"
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
        self.done: dict[int, Measurement] = {}
        self.again: dict[int, float] = {}
        for line in self._log.read_text().splitlines() if self._log.exists() else []:
            self._note(*json.loads(line))

    def build(self, deadline: float) -> bool:
        """Build what is not measured; return whether time sufficed."""
        missing = [schedule for position, schedule in enumerate(self.schedules) if position not in self.done]
        for first in range(0, len(missing), BUILT_AT_ONCE):
            if time.monotonic() > deadline:
                return False
            self._measurer.build(self._workload, missing[first : first + BUILT_AT_ONCE])
            _say(
                f"{self._name}: {min(first + BUILT_AT_ONCE, len(missing))} of {len(missing)} kernels are built"
            )
        return True

    def measure(self, deadline: float) -> bool:
        """Measure in random order, so that a drift of the machine is no axis's fault; return whether time sufficed."""
        order = list(range(len(self.schedules)))
        random.Random(0).shuffle(order)
        for position in [position for position in order if position not in self.done]:
            if time.monotonic() > deadline:
                return False
            rounds = replace(ROUNDS, limit_us=self._best_us() * SLOW_FACTOR)
            measured = self._measurer.measure(self._workload, self.schedules[position], rounds)
            self._write("first", position, str(measured.status), list(measured.times_us), measured.message)
        fast = [at for at, _ in self._ranked()[: RETIMED // 2]]
        close = [at for at, us in self._ranked()[RETIMED // 2 :] if us <= self._best_us() * SLOW_FACTOR]
        sample = random.Random(0).sample(close, min(RETIMED // 2, len(close)))
        for position in [position for position in fast + sample if position not in self.again]:
            measured = self._measurer.time(self._workload, [self.schedules[position]], ROUNDS)[0]
            self._write("again", position, str(measured.status), list(measured.times_us), measured.message)
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
        return Sweep(
            name=self._name,
            workload=self._workload,
            recorded=recorded,
            points=tuple(self.done[position] for position in range(len(self.schedules))),
            features=tuple(tuple(self._space.encode(schedule)) for schedule in self.schedules),
            default=0,
            retimed=self.again,
        )

    def _write(self, kind: str, position: int, status: str, times_us: Sequence[float], message: str) -> None:
        with self._log.open("a") as log:
            print(json.dumps([kind, position, status, times_us, message]), file=log)
        self._note(kind, position, status, times_us, message)
        _say(
            f"{self._name}: {len(self.done)} of {len(self.schedules)}, best {self._best_us():.0f} us, {kind} {status}"
        )

    def _note(self, kind: str, position: int, status: str, times_us: Sequence[float], message: str) -> None:
        schedule: Schedule = self.schedules[position]
        measured = Measurement(schedule, Status(status), tuple(times_us), message=message)
        if kind == "first":
            self.done[position] = measured
        elif measured.ok:
            self.again[position] = measured.median_us

    def _ranked(self) -> list[tuple[int, float]]:
        right = [(position, each.median_us) for position, each in self.done.items() if each.ok]
        return sorted(right, key=lambda entry: entry[1])

    def _best_us(self) -> float:
        ranked = self._ranked()
        return ranked[0][1] if ranked else float("inf")


def _workload(heads: Sequence[Pattern], kv_heads: int, length: int, dtype: str = "float32") -> Workload:
    return Workload.of(
        heads, kv_heads=kv_heads, head_dim=64, q_len=length, kv_len=length, causal=True, dtype=dtype
    )


def _say(line: str) -> None:
    click.echo(f"\r\x1b[2K{line}", err=True, nl=False)


if __name__ == "__main__":
    main()
