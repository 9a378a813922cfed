"""Backends whose candidates spoil the process that measures them, for the candidates that come after."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hcompile.operator import Kernel
from hcompile.tuning import confine
from tests.tuning.fault_backends import NAN, SEGFAULT, FaultBackend

_lost = False


class LostDevice(FaultBackend):
    """Where another would end by a signal, the device is lost to the process, as a GPU is after an illegal access."""

    def load(self, path: Path) -> Kernel:
        global _lost
        _lost = _lost or json.loads(path.read_text())["fault"] == SEGFAULT
        if _lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().load(path)


class Talkative(FaultBackend):
    """Speaks of memory where it is not short of any."""

    def load(self, path: Path) -> Kernel:
        if json.loads(path.read_text())["fault"] == NAN:
            print("out of memory", file=sys.stderr, flush=True)  # noqa: T201
        return super().load(path)


def _answers(device: str) -> bool:
    return not _lost


lost_device, talkative = LostDevice(), Talkative()
confine.device_answers = _answers  # Only measuring processes import this.
