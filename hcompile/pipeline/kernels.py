"""The pipeline's view of kernels: a few tuned schedules, head times from them, and a table for every node of a plan."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hcompile.codegen import get_backend
from hcompile.patterns import Pattern
from hcompile.pipeline.far_times import FarTimes
from hcompile.pipeline.report import NodeTime
from hcompile.plan import Plan
from hcompile.policy.memory import Forgetful, Memory
from hcompile.program import Program
from hcompile.progress import Progress
from hcompile.runtime.dispatch import ScheduleTable, compute_dtype
from hcompile.schedules.schedule import Schedule
from hcompile.site import Site
from hcompile.tuning.latency import LatencyTable, Timer, node_workload
from hcompile.tuning.tune import Tuner, representatives
from hcompile.tuning_db.record import Record
from hcompile.workload import Workload, bucket


class PlanKernels:
    """Tuned schedules for the sites of one program at a few lengths.

    Sites of one shape share everything: what is tuned are the representative workloads of a shape, and each node then
    takes the best of their schedules for its own mix of heads.
    """

    def __init__(
        self,
        program: Program,
        lengths: Sequence[int],
        backend: str,
        tuner: Tuner,
        memory: Memory | None = None,
    ) -> None:
        """`memory`: where times of far fields are kept; None keeps none."""
        self._dtype = compute_dtype(program)
        self._backend = get_backend(backend)
        supports = self._backend.supports
        self.sites = tuple(site for site in program.sites if supports(self._dtype, site.head_dim))
        self._lengths = tuple(sorted({bucket(length) for length in lengths}))
        self._tuner = tuner
        self._schedules: dict[tuple[Workload, ...], tuple[Schedule, ...]] = {}
        self._latency: dict[tuple[Workload, ...], LatencyTable] = {}
        kept = Forgetful() if memory is None else memory
        self._far = FarTimes(self._backend, self._dtype, kept, self._schedule_of)

    def tune(self, progress: Progress) -> None:
        """Search schedules for every shape of site, at the longest length.

        Raises:
            KernelError: every candidate of a workload failed.
        """
        shapes = list(dict.fromkeys(self._shape(site) for site in self.sites))
        total = sum(len(shape) for shape in shapes)
        done = 0
        for shape in shapes:
            best = []
            for workload in shape:
                progress("tune", done, total)
                best.append(_schedule(self._tuner.tune(workload)))
                done += 1
            self._schedules[shape] = tuple(dict.fromkeys(best))
            if not self._general(shape):  # The library's has won all there is, and serves no mixed node.
                safe = self._backend.safe_schedule(self._dtype, shape[0].head_dim)
                self._schedules[shape] += (safe,)
            self._latency[shape] = LatencyTable(self._timer(shape), dtype=self._dtype)
        progress("tune", total, total)

    def head_us(self, site: Site, pattern: Pattern, length: int) -> float:
        """Return the time that one head of `pattern` adds to a node of `site`, in microseconds."""
        own = self._latency[self._shape(site)].head_us(pattern, site, length)
        return own + self._far.head_us(site, pattern, length)

    def tables(self, plan: Plan) -> dict[str, ScheduleTable]:
        """Return the schedules of every node of a plan by length, each the fastest for the node's mix of heads."""
        tables = {}
        for site in self.sites:
            entries = []
            for length in self._lengths:
                workload = node_workload(plan[site.name], site, length, dtype=self._dtype)
                record = self._tuner.choose(workload, self._schedules[self._shape(site)])
                entries.append((length, _schedule(record)))
            tables[site.name] = ScheduleTable(tuple(entries))
        return tables

    def any_table(self) -> dict[str, ScheduleTable]:
        """Return one tuned schedule for every node, good enough to measure the quality of any plan."""
        return {site.name: ScheduleTable.single(self._general(self._shape(site))[-1]) for site in self.sites}

    def node_times(self, plan: Plan, length: int) -> tuple[NodeTime, ...]:
        """Return the predicted and the measured time of every node at `length` tokens (rounded up to a bucket)."""
        length = bucket(length)
        times = []
        for site in self.sites:
            shape = self._shape(site)
            workload = node_workload(plan[site.name], site, length, dtype=self._dtype)
            measured = self._tuner.choose(workload, self._schedules[shape]).median_us
            predicted = self._latency[shape].predict_node_us(plan[site.name], site, length)
            far = sum(self._far.head_us(site, pattern, length) for pattern in plan[site.name])
            times.append(NodeTime(site.name, length, predicted + far, (measured or predicted) + far))
        return tuple(times)

    def _shape(self, site: Site) -> tuple[Workload, ...]:
        return representatives(site, self._lengths[-1], dtype=self._dtype)

    def _general(self, shape: tuple[Workload, ...]) -> list[Schedule]:
        """Return the schedules that serve mixed heads: a head's time in a mixed node is none of the library's."""
        members = {member.template for member in self._backend.members if member.serves(shape[-1])}
        return [schedule for schedule in self._schedules[shape] if schedule.template in members]

    def _schedule_of(self, site: Site, workload: Workload) -> Schedule:
        return _schedule(self._tuner.choose(workload, self._general(self._shape(site))))

    def _timer(self, shape: tuple[Workload, ...]) -> Timer:
        def time_us(workload: Workload) -> float:
            median = self._tuner.choose(workload, self._general(shape)).median_us
            return float("inf") if median is None else median

        return time_us


def _schedule(record: Record) -> Schedule:
    return Schedule.from_json(json.loads(record.schedule))
