"""A backend whose schedules say how their kernels misbehave: what a measuring process has to survive."""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from hcompile.codegen.backend import Backend
from hcompile.codegen.competing import Competing
from hcompile.operator import Kernel
from hcompile.reference import attention_reference
from hcompile.schedules import Axis, Schedule, Space
from hcompile.tuning_db.key import Device, RecordKey
from hcompile.values import sha256_text
from hcompile.workload import Workload

RIGHT, HANG, SEGFAULT, WRONG, NAN, MEMORY, BUILD_ERROR, BUILD_HANG, UNWRITTEN, OVERWRITES, LATE_SEGFAULT = (
    range(11)
)
BUILD_LAGS = 11
"""Right, once it is built: that takes three seconds."""

_CHECK_TOKENS = 256  # The checks' inputs are shorter than this, the timed ones longer.


class FaultBackend(Backend):
    """Builds nothing: the artifact is the schedule's own values.

    The space is every fault once, and right kernels that take `delay` milliseconds longer than the first.
    """

    name = "faults"
    template = "fault"

    def __init__(self, kinds: tuple[int, ...] = tuple(range(11)), delays: tuple[int, ...] = (0, 200)) -> None:
        self._axes = (Axis("delay", delays, "ms"), Axis("fault", kinds, "what goes wrong"))

    def space(self, workload: Workload) -> Space:
        start = tuple((axis.name, axis.choices[-1 if axis.name == "delay" else 0]) for axis in self._axes)
        least = self._axes[0].choices[0]
        return Space(self.template, self._axes, lambda v: v["fault"] == RIGHT or v["delay"] == least, start)

    def supports(self, dtype: str, head_dim: int) -> bool:
        return True

    def safe_schedule(self, dtype: str, head_dim: int) -> Schedule:
        return Schedule.of(self.template, {"fault": RIGHT, "delay": 0})

    def kernel_source_hash(self) -> str:
        return sha256_text(Path(__file__).read_text())

    def device(self) -> Device:
        return Device("cpu", "test", "none", cores=2, threads=2, memory_class="1GiB")

    def record_key(self, workload: Workload) -> RecordKey:
        versions = (("faults", "1"),)
        source = self.kernel_source_hash()
        return RecordKey(self.device(), versions, self.name, self.template, source, workload)

    def build(
        self,
        schedule: Schedule,
        dtype: str,
        head_dim: int,
        folder: Path | None = None,
        *,
        group: int = 1,
        causal: bool = True,
    ) -> Path:
        if schedule["fault"] == BUILD_ERROR:
            raise RuntimeError("the compiler says no")
        if schedule["fault"] == BUILD_HANG:
            time.sleep(600)
        if schedule["fault"] == BUILD_LAGS:
            time.sleep(3)
        assert folder is not None
        path = folder / f"{self.template}-{schedule['fault']}-{schedule['delay']}.json"
        path.write_text(json.dumps(dict(schedule.values)))
        return path

    def load(self, path: Path) -> Kernel:
        values = json.loads(path.read_text())
        fault, delay_s = values["fault"], values["delay"] / 1000

        def kernel(q: torch.Tensor, *rest: Any) -> torch.Tensor:
            time.sleep(600 if fault == HANG else delay_s)
            if fault == SEGFAULT or (fault == LATE_SEGFAULT and q.shape[2] > _CHECK_TOKENS):
                ctypes.string_at(0)
            if fault == MEMORY:
                torch.empty(1 << 40, dtype=torch.uint8)
            out = attention_reference(q, *rest)
            if fault == WRONG:
                return out * 1.01
            if fault == NAN:
                out[0, 0, 0, 0] = float("nan")
            if fault == UNWRITTEN:
                fresh = torch.empty_like(out)
                fresh[:, :, :-1] = out[:, :, :-1]
                return fresh
            if fault == OVERWRITES:
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

    name = "ahead"
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
