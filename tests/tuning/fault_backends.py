"""A backend whose schedules say how their kernels misbehave: what a measuring process has to survive."""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hcompile.reference import attention_reference
from hcompile.schedules import Schedule

RIGHT, HANG, SEGFAULT, WRONG, NAN, MEMORY, BUILD_ERROR, BUILD_HANG, UNWRITTEN, OVERWRITES, LATE_SEGFAULT = (
    range(11)
)

_CHECK_TOKENS = 256  # The checks' inputs are shorter than this, the timed ones longer.


class FaultBackend:
    """Builds nothing: the artifact is the schedule's own text."""

    def build(self, schedule: Schedule, dtype: str, head_dim: int, folder: Path | None = None) -> Path:
        fault = dict(schedule.values)["fault"]
        if fault == BUILD_ERROR:
            raise RuntimeError("the compiler says no")
        if fault == BUILD_HANG:
            time.sleep(600)
        assert folder is not None
        path = folder / f"{fault}.json"
        path.write_text(json.dumps(fault))
        return path

    def load(self, path: Path) -> Callable[..., torch.Tensor]:
        fault = json.loads(path.read_text())

        def kernel(q: torch.Tensor, *rest: Any) -> torch.Tensor:
            if fault == HANG:
                time.sleep(600)
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

        return kernel


backend = FaultBackend()
