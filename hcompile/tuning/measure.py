"""Measuring candidates in child processes: build ahead on all cores, then check and time one after the other."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from hcompile.locked_folder import locked_folder
from hcompile.schedules import Schedule
from hcompile.tuning.measurement import Measurement
from hcompile.tuning.pool import WorkerPool
from hcompile.tuning.process import Reply
from hcompile.tuning.timing import Rounds
from hcompile.tuning_db.record import Status
from hcompile.workload import Workload

SLOW_US = 2e6
"""A call that takes longer than this is timed once: more would not fit into a candidate's time limit."""

ROUNDS = Rounds(slow_us=SLOW_US)
FINAL_ROUNDS = Rounds(least=10, slow_us=SLOW_US)

MOST_SPARES = 6
"""With a GPU a measuring process takes some ten seconds to start, and a deadly candidate two to die at most: so many
that start side by side come about as fast as deadly candidates use them up."""


@dataclass(frozen=True, slots=True)
class MeasureLimits:
    """What a candidate may use before it counts as failed.

    Attributes:
        build_s, check_s, time_s: time limit of each step.
        memory_bytes: address space that a measuring process may add to what its libraries take.
        workers: processes that build side by side; None for one per core. Only one of them ever times.
        spares: processes at most that are kept ready to take that one's place once some were lost; None for one per
            three cores, up to `MOST_SPARES`.
    """

    build_s: float = 60.0
    check_s: float = 20.0
    time_s: float = 60.0
    memory_bytes: int = 8 << 30
    workers: int | None = None
    spares: int | None = None


class Measurer:
    """Measures schedules of any workload of one backend. A context manager that owns the processes and built files.

    Attributes:
        measured: candidates measured so far, failures included.
    """

    def __init__(
        self, backend: str, threads: int, limits: MeasureLimits | None = None, *, folder: Path | None = None
    ) -> None:
        """Time on this many threads.

        Args:
            backend: the name of a backend, or `package.module:attribute`.
            folder: where built files are kept; by default a temporary folder, made after those of killed processes are
                removed.
        """
        self._limits = limits or MeasureLimits()
        arguments = {"backend": backend, "threads": threads, "memory-bytes": self._limits.memory_bytes}
        self._owned = ExitStack()
        if folder is None:
            temporary = locked_folder("hcompile-tuning-", Path(tempfile.gettempdir()))
            folder = self._owned.enter_context(temporary)
        self._folder = folder
        spares = self._limits.spares
        if spares is None:
            spares = min(MOST_SPARES, len(os.sched_getaffinity(0)) // 3)
        options = [f"--{name}={value}" for name, value in arguments.items()]
        pool = WorkerPool(options, self._limits.workers, spares)
        self._pool = self._owned.enter_context(pool)
        self._built: dict[tuple[object, ...], Reply] = {}
        self.measured = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes and remove the temporary folder."""
        self._owned.close()

    def build(self, workload: Workload, schedules: Sequence[Schedule]) -> None:
        """Build schedules ahead, on all cores; how each ended shows when it is measured."""
        shape = {
            "dtype": workload.dtype,
            "head_dim": workload.head_dim,
            "group": workload.q_heads // workload.kv_heads,
            "causal": workload.causal,
            "folder": str(self._folder),
        }
        missing = [schedule for schedule in schedules if _build_key(workload, schedule) not in self._built]
        requests = [{"operation": "build", "schedule": schedule.to_json(), **shape} for schedule in missing]
        for schedule, reply in zip(missing, self._pool.map(requests, self._limits.build_s), strict=True):
            self._built[_build_key(workload, schedule)] = _outcome(reply)

    def facts(self, workload: Workload, schedules: Sequence[Schedule]) -> list[Mapping[str, float] | None]:
        """Return what the compiler said of each schedule (`Backend.facts`), None where it does not build."""
        self.build(workload, schedules)
        built = [self._built[_build_key(workload, schedule)] for schedule in schedules]
        return [None if reply.failure is not None else reply.values["facts"] for reply in built]

    def measure(self, workload: Workload, schedule: Schedule, rounds: Rounds = ROUNDS) -> Measurement:
        """Check a schedule, and time it where it is right."""
        self.measured += 1
        self.build(workload, [schedule])
        built = self._built[_build_key(workload, schedule)]
        if built.failure is not None:
            return Measurement(schedule, built.failure, message=built.message)
        request = {"operation": "check", "artifact": built.values["artifact"], "seed": self.measured}
        checked = _outcome(self._pool.ask({**request, "workload": workload.to_json()}, self._limits.check_s))
        max_err, tolerance = checked.values.get("max_err"), checked.values.get("tolerance")
        if max_err is not None and not math.isfinite(max_err):
            max_err = None
        if checked.failure is not None:
            return Measurement(schedule, checked.failure, (), max_err, tolerance, checked.message)
        timed = self.time(workload, [schedule], rounds)[0]
        return replace(timed, max_err=max_err, tolerance=tolerance)

    def time(self, workload: Workload, schedules: Sequence[Schedule], rounds: Rounds) -> list[Measurement]:
        """Time schedules in turn, unchecked. They run in one process: where one fails, all have failed."""
        self.build(workload, schedules)
        built = [self._built[_build_key(workload, schedule)] for schedule in schedules]
        replies = [reply for reply in built if reply.failure is not None]
        if not replies:
            paths = [reply.values["artifact"] for reply in built]
            request = {"operation": "time", "artifacts": paths, "rounds": asdict(rounds)}
            limit_s = self._limits.time_s * len(paths)
            timed = self._pool.ask({**request, "workload": workload.to_json()}, limit_s, quiet=True)
            replies = [_outcome(timed)]
        reply = replies[0]
        if reply.failure is not None:
            return [Measurement(schedule, reply.failure, message=reply.message) for schedule in schedules]
        times = zip(schedules, reply.values["times_us"], strict=True)
        return [
            Measurement(schedule, Status.OK, tuple(own), noisy=reply.values["noisy"])
            for schedule, own in times
        ]

    def retime(self, workload: Workload, measurements: Sequence[Measurement]) -> list[Measurement]:
        """Time right candidates against each other, in turn; the same objects again where one of them fails now."""
        timed = self.time(workload, [each.schedule for each in measurements], FINAL_ROUNDS)
        if not all(each.ok for each in timed):
            return list(measurements)
        pairs = zip(measurements, timed, strict=True)
        return [replace(old, times_us=new.times_us, noisy=new.noisy) for old, new in pairs]


def _build_key(workload: Workload, schedule: Schedule) -> tuple[object, ...]:
    """Return what a built file depends on: workloads share it."""
    group = workload.q_heads // workload.kv_heads
    return workload.dtype, workload.head_dim, group, workload.causal, schedule


def _outcome(reply: Reply) -> Reply:
    """Turn a failure that the worker reported by itself into the same form as one that it did not survive."""
    if "failure" not in reply.values:
        return reply
    return Reply(reply.values, Status(reply.values["failure"]), reply.values["message"])
