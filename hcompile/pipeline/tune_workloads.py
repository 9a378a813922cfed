"""`hcompile tune --workload`: schedules of named workloads into the tuning database, without a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hcompile.codegen import get_backend
from hcompile.errors import UsageError
from hcompile.pipeline.tuning import tune_options
from hcompile.progress import Progress, quiet
from hcompile.schedules.schedule import Schedule
from hcompile.tuning.tune import Tuner
from hcompile.tuning_db.record import Record
from hcompile.tuning_db.store import open_db
from hcompile.workload import Workload


@dataclass(frozen=True, slots=True)
class WorkloadsRequest:
    """What to tune.

    Attributes:
        workloads: each as `Workload.label` writes it; sizes are rounded up to buckets.
        backend, trials, time_limit_s, seed, db: as in `hcompile.pipeline.request.OptimizeRequest`.
    """

    workloads: tuple[str, ...]
    backend: str = "tvm_cpu"
    trials: int | None = None
    time_limit_s: float | None = None
    seed: int = 0
    db: str | None = None


@dataclass(frozen=True, slots=True)
class TunedWorkload:
    """The fastest schedule of one workload, whose template says who builds it."""

    workload: Workload
    schedule: Schedule
    median_us: float

    def to_json(self) -> dict[str, Any]:
        return {
            "workload": self.workload.to_json(),
            "label": self.workload.label(),
            "schedule": self.schedule.to_json(),
            "median_us": self.median_us,
        }


@dataclass(frozen=True, slots=True)
class WorkloadsReport:
    """All of them, and the candidates that were measured in this run."""

    device: Mapping[str, Any]
    tuned: tuple[TunedWorkload, ...]
    kernels_measured: int

    def to_json(self) -> dict[str, Any]:
        return {
            "device": dict(self.device),
            "workloads": [each.to_json() for each in self.tuned],
            "kernels_measured": self.kernels_measured,
        }


def tune_workloads(request: WorkloadsRequest, progress: Progress = quiet) -> WorkloadsReport:
    """Search the fastest schedule of each workload; a search that was interrupted goes on.

    Raises:
        UsageError: a workload cannot be read.
        KernelError: there is no kernel for a workload, or none of its schedules is valid.
        EnvironmentFault: the device is missing, or the database cannot be written.
    """
    workloads = [_parsed(text) for text in request.workloads]
    device = get_backend(request.backend).device()
    options = tune_options(request.trials, request.time_limit_s, request.seed)
    tuned = []
    with open_db(request.db) as db, Tuner(request.backend, db, options) as tuner:
        for done, workload in enumerate(workloads):
            progress("tune", done, len(workloads))
            tuned.append(_tuned(workload, tuner.tune(workload)))
        progress("tune", len(workloads), len(workloads))
        return WorkloadsReport(device.to_json(), tuple(tuned), tuner.measured)


def _parsed(text: str) -> Workload:
    try:
        return Workload.parse(text)
    except ValueError as error:
        raise UsageError(f"--workload {text!r}: {error}") from error


def _tuned(workload: Workload, record: Record) -> TunedWorkload:
    assert record.median_us is not None, "a tuner returns right candidates"
    return TunedWorkload(workload, Schedule.from_json(json.loads(record.schedule)), record.median_us)
