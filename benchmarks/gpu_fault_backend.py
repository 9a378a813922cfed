"""A backend whose schedules say how their kernels misbehave on a GPU: what tuning there has to survive.

`backend` is for a GPU. `twin` does the same to a process on a CPU, where a crash stands in for an illegal access: with
it the script that uses them is tried without a GPU.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch

from hcompile.codegen import get_backend
from hcompile.codegen.backend import Backend
from hcompile.operator import Kernel
from hcompile.patterns import Dense, Local
from hcompile.reference import attention_reference
from hcompile.schedules import Axis, Schedule, Space
from hcompile.tuning.check import CHECK_LENGTHS, check
from hcompile.tuning_db.key import Device, RecordKey
from hcompile.tuning_db.record import Status
from hcompile.values import sha256_text
from hcompile.workload import Workload

RIGHT, HANG, SEGFAULT, ILLEGAL, LATE_ILLEGAL, WRONG, NAN, UNWRITTEN, MEMORY = range(9)
NAMES = ("right", "hang", "segfault", "illegal", "late illegal", "wrong by 1 %", "nan", "unwritten", "memory")
WANTED = {
    RIGHT: Status.OK,
    HANG: Status.TIMEOUT,
    SEGFAULT: Status.CRASH,
    ILLEGAL: Status.CRASH,
    LATE_ILLEGAL: Status.CRASH,
    WRONG: Status.WRONG,
    NAN: Status.WRONG,
    UNWRITTEN: Status.WRONG,
    MEMORY: Status.OUT_OF_MEMORY,
}
"""How a candidate of each kind has to end."""

RIGHT_ONES = 4
"""Twice hcompile's own kernel, twice the reference; the second of each computes twice, and is slower."""

WORKLOAD = Workload.of(
    [Dense()] * 2 + [Local(256, 64)] * 6,
    kv_heads=2,
    head_dim=128,
    q_len=1024,
    kv_len=1024,
    causal=True,
    dtype="bfloat16",
)
"""Longer than the checks' inputs, by which `LATE_ILLEGAL` knows that it is timed."""

_TERABYTE = 1 << 40
_OVER_THE_LIMIT = 12 << 30
"""Bytes that a large GPU has, and a candidate may not take (`MeasureLimits.memory_bytes`)."""
_FAR = 1 << 44
"""Elements of four bytes: beyond all addresses that a process maps."""


def bad_ones(count: int) -> Iterator[tuple[int, int]]:
    """Yield kind and number of so many bad candidates: every kind in turn, the rarer two in some of the rounds."""
    for index in range(count):
        number, place = divmod(index, 6)
        illegal, silent = (LATE_ILLEGAL, UNWRITTEN) if number % 5 == 4 else (ILLEGAL, NAN)
        yield (HANG, WRONG, illegal, silent, SEGFAULT, MEMORY)[place], number


class GpuFaults(Backend):
    """Builds nothing of its own: the artifact holds the schedule's values and the path of hcompile's own kernel.

    Attributes:
        bad: how many bad candidates the space has.
    """

    template = "gpu_fault"

    def __init__(self, device_type: str) -> None:
        self.name = f"faults_{device_type}"
        self.device_type = device_type
        self.bad = 200

    def space(self, workload: Workload) -> Space:
        points = {*bad_ones(self.bad), *((RIGHT, number) for number in range(RIGHT_ONES))}
        numbers = tuple(range(max(number for _, number in points) + 1))
        axes = (Axis("fault", tuple(range(len(NAMES))), "what goes wrong"), Axis("number", numbers, ""))
        start = (("fault", RIGHT), ("number", RIGHT_ONES - 1))
        return Space(self.template, axes, lambda v: (v["fault"], v["number"]) in points, start)

    def supports(self, dtype: str, head_dim: int) -> bool:
        return True

    def safe_schedule(self, dtype: str, head_dim: int) -> Schedule:
        return Schedule.of(self.template, {"fault": RIGHT, "number": 0})

    def kernel_source_hash(self) -> str:
        return sha256_text(Path(__file__).read_text())

    def device(self) -> Device:
        if self.device_type == "cuda":
            return get_backend("cuda").device()
        return Device("cpu", "twin", "none", cores=2, threads=2, memory_class="1GiB")

    def record_key(self, workload: Workload) -> RecordKey:
        versions = tuple((library, version(library)) for library in ("torch", "triton"))
        source = self.kernel_source_hash()
        return RecordKey(self.device(), versions, self.name, self.template, source, workload)

    def warm_up(self) -> None:
        """Compile and load what candidates use: two seconds are for the faults themselves."""
        if self.device_type == "cuda":
            _spin(stop=1)
            _store_at(0)
            torch.cuda.synchronize()
            check(get_backend("cuda").load(own_kernel()), WORKLOAD, 0, "cuda")

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
        assert folder is not None
        values = "-".join(f"{value}" for _, value in schedule.values)
        path = folder / f"{self.template}-{values}.json"
        path.write_text(json.dumps(dict(schedule.values)))
        return path

    def load(self, path: Path) -> Kernel:
        values = json.loads(path.read_text())
        fault, number = values["fault"], values.get("number", 0)
        own = fault == RIGHT and number < RIGHT_ONES // 2 and self.device_type == "cuda"
        right = get_backend("cuda").load(own_kernel()) if own else attention_reference
        longest_check = max(CHECK_LENGTHS[self.device_type])

        def kernel(q: torch.Tensor, *rest: Any) -> torch.Tensor:
            if fault == LATE_ILLEGAL and q.shape[2] > longest_check:
                _DEADLY[self.device_type, ILLEGAL]()
            if (self.device_type, fault) in _DEADLY:
                _DEADLY[self.device_type, fault]()
            if fault == MEMORY:
                size = _OVER_THE_LIMIT if number % 2 else _TERABYTE
                torch.empty(size, dtype=torch.uint8, device=q.device)
            out = right(q, *rest)
            if fault == RIGHT and number % 2:
                out = right(q, *rest)
            if fault == WRONG:
                return out * 1.01
            if fault == NAN:
                out[0, 0, 0, 0] = float("nan")
            if fault == UNWRITTEN:
                fresh = torch.empty_like(out)
                fresh[:, :, :-1] = out[:, :, :-1]
                return fresh
            return out

        return cast(Kernel, kernel)


@cache
def own_kernel() -> Path:
    """Return the built file of hcompile's own kernel for the workload, built now unless it is in the cache."""
    target, dtype, head_dim = get_backend("cuda"), WORKLOAD.dtype, WORKLOAD.head_dim
    group = WORKLOAD.q_heads // WORKLOAD.kv_heads
    return target.build(target.safe_schedule(dtype, head_dim), dtype, head_dim, group=group, causal=True)


def _spin(stop: int) -> None:
    from benchmarks.gpu_fault_kernels import spin

    spin[(1,)](*(torch.full((1,), value, dtype=torch.int32, device="cuda") for value in (0, stop)))


def _store_at(offset: int) -> None:
    from benchmarks.gpu_fault_kernels import store_at

    target = torch.zeros(1, dtype=torch.int32, device="cuda")
    store_at[(1,)](target, torch.full((1,), offset, dtype=torch.int64, device="cuda"))


_DEADLY: dict[tuple[str, int], Callable[[], object]] = {
    ("cuda", HANG): lambda: _spin(stop=0),
    ("cuda", ILLEGAL): lambda: _store_at(_FAR),
    ("cuda", SEGFAULT): lambda: ctypes.string_at(0),
    ("cpu", HANG): lambda: time.sleep(600),
    ("cpu", ILLEGAL): lambda: ctypes.string_at(0),
    ("cpu", SEGFAULT): lambda: ctypes.string_at(0),
}

backend, twin = GpuFaults("cuda"), GpuFaults("cpu")
