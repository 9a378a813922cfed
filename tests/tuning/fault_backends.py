"""A backend whose schedules say how their kernels misbehave: what a measuring process has to survive."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks import gpu_fault_backend as gpu
from hcompile.codegen.competing import Competing
from hcompile.operator import Kernel
from hcompile.schedules import Axis, Schedule, Space
from hcompile.tuning_db.key import Device
from hcompile.workload import Workload

RIGHT, HANG, SEGFAULT, LATE_SEGFAULT = gpu.RIGHT, gpu.HANG, gpu.SEGFAULT, gpu.LATE_ILLEGAL
WRONG, NAN, UNWRITTEN, MEMORY = gpu.WRONG, gpu.NAN, gpu.UNWRITTEN, gpu.MEMORY
BUILD_ERROR, BUILD_HANG, BUILD_LAGS, OVERWRITES = range(100, 104)
"""Right but for building them, which fails, never ends, or takes three seconds; and right but for what it writes to."""

ALL_KINDS = (
    *(RIGHT, HANG, SEGFAULT, LATE_SEGFAULT, WRONG, NAN, UNWRITTEN, MEMORY),
    *(BUILD_ERROR, BUILD_HANG, OVERWRITES),
)


class FaultBackend(gpu.GpuFaults):
    """The faults of a benchmark for GPUs on a CPU, and more.

    The space is every fault once, and right kernels that take `delay` milliseconds longer than the first.
    """

    template = "fault"

    def __init__(self, kinds: tuple[int, ...] = ALL_KINDS, delays: tuple[int, ...] = (0, 200)) -> None:
        super().__init__("cpu")
        self._axes = (Axis("delay", delays, "ms"), Axis("fault", kinds, "what goes wrong"))

    def space(self, workload: Workload) -> Space:
        start = tuple((axis.name, axis.choices[-1 if axis.name == "delay" else 0]) for axis in self._axes)
        least = self._axes[0].choices[0]
        return Space(self.template, self._axes, lambda v: v["fault"] == RIGHT or v["delay"] == least, start)

    def safe_schedule(self, dtype: str, head_dim: int) -> Schedule:
        return Schedule.of(self.template, {"fault": RIGHT, "delay": 0})

    def build(
        self, schedule: Schedule, dtype: str, head_dim: int, folder: Path | None = None, **calls: Any
    ) -> Path:
        if schedule["fault"] == BUILD_ERROR:
            raise RuntimeError("the compiler says no")
        time.sleep({BUILD_HANG: 600, BUILD_LAGS: 3}.get(schedule["fault"], 0))
        return super().build(schedule, dtype, head_dim, folder, **calls)

    def load(self, path: Path) -> Kernel:
        values, faulty = json.loads(path.read_text()), super().load(path)

        def kernel(q: torch.Tensor, *rest: Any) -> torch.Tensor:
            time.sleep(values["delay"] / 1000)
            out = faulty(q, *rest)
            if values["fault"] == OVERWRITES:
                q.zero_()
            return out

        return cast(Kernel, kernel)


backend = FaultBackend()
harmless = FaultBackend(kinds=(RIGHT, WRONG, BUILD_ERROR), delays=(0, 5, 10, 15, 200))
laggard = FaultBackend(kinds=(RIGHT, BUILD_LAGS), delays=(0,))
hopeless = FaultBackend(kinds=(WRONG, BUILD_ERROR), delays=(0,))


class Rival(FaultBackend):
    """Competes under a template of its own, with one right schedule; serves causal workloads only."""

    def __init__(self, name: str, delay: int) -> None:
        super().__init__(kinds=(RIGHT,), delays=(delay,))
        self.name, self.template = name, f"{name}_fault"
        self._delay = delay

    def serves(self, workload: Workload) -> bool:
        return workload.causal

    def safe_schedule(self, dtype: str, head_dim: int) -> Schedule:
        return Schedule.of(self.template, {"fault": RIGHT, "delay": self._delay})


class Ahead(FaultBackend):
    """Passes for a GPU's, which compiles ahead, though its kernels run here."""

    template = "ahead_fault"
    compiles_ahead = True

    def device(self) -> Device:
        return Device("cuda", "test", "sm_90", cores=2, threads=64, memory_class="1GiB")

    def facts(self, path: Path) -> Mapping[str, float]:
        return {"registers": 31 + json.loads(path.read_text())["delay"], "stack_bytes": 0}


slow, steady, late = Rival("slow", 300), Rival("steady", 20), Rival("late", 120)
ahead = Ahead(kinds=(RIGHT, WRONG, BUILD_ERROR), delays=(0, 50, 200))
without_ahead = Competing(
    "without_ahead", ("tests.tuning.fault_backends:slow", "tests.tuning.fault_backends:ahead")
)
rivals = Competing("rivals", ("tests.tuning.fault_backends:slow", "tests.tuning.fault_backends:harmless"))
close = Competing("close", ("tests.tuning.fault_backends:late", "tests.tuning.fault_backends:steady"))
