"""Tuning as the pipeline sees it: the best schedule of a workload, and the time of a schedule on any workload.

Both ask the tuning database first, and measure only what it lacks; whatever is measured goes there at once.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from types import TracebackType
from typing import Self

import numpy as np

from hcompile.codegen import get_backend
from hcompile.codegen.backend import Backend
from hcompile.errors import KernelError
from hcompile.patterns import Dense, Local
from hcompile.schedules import Schedule
from hcompile.site import Site
from hcompile.tuning.features import compiler_features, features, work
from hcompile.tuning.finals import decide
from hcompile.tuning.latency import node_workload
from hcompile.tuning.machine import Machine
from hcompile.tuning.measure import MeasureLimits, Measurer
from hcompile.tuning.measurement import Measurement, TrialProgress
from hcompile.tuning.problem import Floats, Problem
from hcompile.tuning.recording import RecordingRunner, record_of, stands
from hcompile.tuning.search import SearchOptions, SearchResult, Stop, search
from hcompile.tuning_db.key import RecordKey
from hcompile.tuning_db.record import Record, Status
from hcompile.tuning_db.result import ResultKey
from hcompile.tuning_db.store import TuningDB
from hcompile.values import sha256_json
from hcompile.workload import Workload

PRIOR_RECORDS = 1000
"""The most records of other workloads that a cost model learns from."""


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """How far each search goes (its time limit is for all of them together), and what a candidate may use."""

    search: SearchOptions = field(default_factory=SearchOptions)
    limits: MeasureLimits = field(default_factory=MeasureLimits)


class Tuner:
    """Tunes for one backend on this machine. A context manager that owns the measuring processes."""

    def __init__(
        self,
        backend: str,
        db: TuningDB,
        options: TuneOptions | None = None,
        progress: TrialProgress | None = None,
    ) -> None:
        self._backend = get_backend(backend)
        self._db = db
        self._options = options or TuneOptions()
        self._progress = progress
        device = self._backend.device()
        threads = device.threads if device.kind == "cpu" else 1  # Of the host.
        self._measurer = Measurer(backend, threads, self._options.limits)
        self._machine = Machine.of(device)
        self._run_id = uuid.uuid4().hex
        self._deadline = time.monotonic() + self._options.search.time_limit_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._measurer.close()

    @property
    def measured(self) -> int:
        """Candidates measured so far; stays 0 where the database has everything."""
        return self._measurer.measured

    def tune(self, workload: Workload) -> Record:
        """Return the best schedule of a workload, of all code generators that compete for it.

        Each searches its own space where no search of it has been finished. A search that was interrupted, ran out of
        time or found nothing goes on: what it measured counts as its first trials. So does a finished one for what
        failed in a way that a bad moment can cause: a later run measures each such candidate once more. The winners are
        then timed against each other.

        Raises:
            KernelError: there is no code generator for the workload, or every candidate failed.
        """
        winners: list[Record] = []
        reasons: list[str] = []
        for member in self._members(workload):
            try:
                winners.append(self._tune_one(member, workload))
            except KernelError as error:
                reasons.append(str(error))
        if not winners:
            raise KernelError("; ".join(reasons))
        factor = self._options.search.slow_factor
        return decide(self._db, self._measurer, winners, slow_factor=factor, run_id=self._run_id)

    def _members(self, workload: Workload) -> list[Backend]:
        members = [member for member in self._backend.members if member.serves(workload)]
        if not members:
            raise KernelError(f"{self._backend.name} has no kernel for {workload.label()}")
        return members

    def _tune_one(self, member: Backend, workload: Workload) -> Record:
        key = member.record_key(workload)
        points = tuple(member.space(workload).enumerate())
        finished = self._finish_key(key, points)
        outcome = self._db.get_result(finished)
        believed = set(outcome.get("believed", [])) if outcome else set()
        again = self._doubted(key, points, believed) if outcome else []
        if outcome is None or again:
            runner = RecordingRunner(self._db, self._measurer, key, self._run_id)
            believed |= {each.schedule.text for each in runner.run(again, math.inf)}
            result = self._search(member, workload, key, points)
            winner = result.winner.schedule.text if result.winner else None
            outcome = {
                "stop": str(result.stop),
                "trials": len(result.history),
                "winner": winner,
                "believed": sorted(believed),
            }
            if winner is not None and result.stop is not Stop.TIME:
                self._db.put_result(finished, outcome)
        records = self._db.records(key)
        for record in records:
            if record.schedule == outcome["winner"] and record.status is Status.OK:
                return record
        # Another process may have put a failure in the winner's place, or a right candidate beside failures.
        best = self._db.best(key)
        if best is not None:
            return best
        reason = records[0].message if records else "other processes are measuring all of them"
        raise KernelError(f"no schedule of {workload.label()} is valid ({reason}): see hcompile db list")

    def _doubted(self, key: RecordKey, points: Sequence[Schedule], believed: set[str]) -> list[Schedule]:
        """Return the schedules that failed in another run in a way that need not last.

        Args:
            believed: schedules that were measured once more for that: what came of it holds.
        """
        failed = {record.schedule for record in self._db.records(key) if not stands(record, self._run_id)}
        return [schedule for schedule in points if schedule.text in failed - believed]

    def choose(self, workload: Workload, schedules: Sequence[Schedule]) -> Record:
        """Return the record of the fastest of a few schedules on a workload, measured now where the database lacks it.

        Failures of other runs that need not last, such as a time limit, count as lacking.

        Raises:
            KernelError: none of them is valid.
        """
        records: list[Record] = []
        for member in self._members(workload):
            mine = [schedule for schedule in schedules if schedule.template == member.template]
            records += self._measured(member, workload, mine)
        right = [record for record in records if record.status is Status.OK]
        if not right:
            reason = records[0].message if records else "none is of a template for it"
            raise KernelError(f"no schedule for {workload.label()} is valid ({reason}): see hcompile db list")
        return min(right, key=_median_us)

    def _measured(self, member: Backend, workload: Workload, schedules: Sequence[Schedule]) -> list[Record]:
        key = member.record_key(workload)
        known = {record.schedule: record for record in self._db.records(key)}
        standing = {text for text, record in known.items() if stands(record, self._run_id)}
        missing = [schedule for schedule in schedules if schedule.text not in standing]
        self._measurer.build(workload, missing)
        for schedule in missing:
            record = record_of(self._measurer.measure(workload, schedule), key, self._run_id)
            self._db.add(record)
            known[schedule.text] = record
        return [known[schedule.text] for schedule in schedules]

    def _search(
        self, member: Backend, workload: Workload, key: RecordKey, points: tuple[Schedule, ...]
    ) -> SearchResult:
        space = member.space(workload)
        prior_features, prior_costs = self._prior(member, key)
        legal, (points, encoded) = points, self._encoded(member, workload, points)
        # What does not compile is measured as a failure, so that the database tells why it was left out.
        kept = set(points)
        pruned = self._measured(member, workload, [each for each in legal if each not in kept])
        if not points:
            raise KernelError(f"no schedule of {workload.label()} compiles ({pruned[0].message})")
        problem = Problem(
            points=points,
            features=features(workload, self._machine, points, encoded),
            work=work(workload),
            default=points.index(space.default()) if space.default() in points else 0,
            also=tuple(points.index(schedule) for schedule in space.starts()[1:] if schedule in points),
            prior_features=prior_features,
            prior_costs=prior_costs,
        )
        left_s = max(self._deadline - time.monotonic(), 1e-3)
        options = replace(self._options.search, time_limit_s=left_s)
        runner = RecordingRunner(self._db, self._measurer, key, self._run_id)
        known = [each for each in runner.known() if each.schedule in kept]
        return search(problem, runner, options, known, self._progress)

    def _encoded(
        self, member: Backend, workload: Workload, schedules: Sequence[Schedule]
    ) -> tuple[tuple[Schedule, ...], list[list[float]]]:
        """Return those schedules that may be measured, and how the cost model sees each.

        Where compiling ahead is cheap all of them are compiled: what does not fit the device falls out here.
        """
        space = member.space(workload)
        if not member.compiles_ahead:
            return tuple(schedules), [space.encode(schedule) for schedule in schedules]
        facts = self._measurer.facts(workload, schedules)
        kept = [(each, found) for each, found in zip(schedules, facts, strict=True) if found is not None]
        rows = [[*space.encode(schedule), *compiler_features(found)] for schedule, found in kept]
        return tuple(schedule for schedule, _ in kept), rows

    def _prior(self, member: Backend, key: RecordKey) -> tuple[Floats, Floats]:
        """Return features and costs of what other workloads of this template measured on this machine."""
        measured: dict[Workload, dict[Schedule, float]] = {}
        for record in self._db.alike(key, PRIOR_RECORDS):
            measurement = Measurement.of_record(record)
            if measurement.schedule in member.space(record.key.workload):
                measured.setdefault(record.key.workload, {})[measurement.schedule] = measurement.median_us
        rows, costs = [], []
        for other, times_us in measured.items():
            kept, encoded = self._encoded(member, other, list(times_us))
            if kept:
                rows.append(features(other, self._machine, kept, encoded))
                costs += [math.log(times_us[schedule] / work(other)) for schedule in kept]
        return np.concatenate(rows) if rows else np.empty((0, 0)), np.array(costs)

    def _finish_key(self, key: RecordKey, points: Sequence[Schedule]) -> ResultKey:
        """Return what the outcome of a search is kept under: measurements' key, options, and the space searched."""
        space = sha256_json([point.text for point in points])
        return ResultKey.of(
            "tuning.search",
            weights_sha256=sha256_json(None),
            data_sha256=key.digest,
            code_sha256=key.source_sha256,
            extra={"options": asdict(self._options.search), "space": space},
        )


def representatives(site: Site, length: int, *, dtype: str, batch: int = 1) -> tuple[Workload, ...]:
    """Return the few workloads whose tuning serves every node of a site's shape: dense, local, and mostly local."""
    # Windows are narrower than short inputs: a wider one is dense.
    dense, local = Dense(), Local(min(256, max(1, length // 4)), min(64, max(1, length // 16)))
    few = max(1, site.q_heads // 4)
    mixes = [(dense,) * site.q_heads, (local,) * site.q_heads]
    if site.q_heads > 1:
        mixes.append((dense,) * few + (local,) * (site.q_heads - few))
    return tuple(node_workload(heads, site, length, dtype=dtype, batch=batch) for heads in mixes)


def _median_us(record: Record) -> float:
    return record.median_us if record.median_us is not None else math.inf
