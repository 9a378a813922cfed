"""The facts of this machine that a kernel's time depends on, as features."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hcompile.checks import check_int, check_object
from hcompile.tuning_db.key import Device

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True, slots=True)
class Machine:
    """Threads that a kernel runs on, and the data caches that one of them sees, in bytes.

    A GPU's threads are its multiprocessors, their first level the shared memory of one; the third is the second again.
    """

    threads: int
    l1_bytes: int = 32 << 10
    l2_bytes: int = 1 << 20
    l3_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        for field in fields(self):
            check_int(f"machine {field.name}", getattr(self, field.name), 1)

    @classmethod
    def current(cls, threads: int, caches: Path = _CACHES) -> Machine:
        """Return this machine with `threads` in use; where it does not tell its caches, those of a common one."""
        found = {}
        for index in sorted(caches.glob("index*")):
            try:
                level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            except OSError:  # Virtual machines list caches of which they do not know the size.
                continue
            if kind != "Instruction" and level in "123":
                found[f"l{level}_bytes"] = int(size[:-1]) * _UNITS[size[-1]]
        return cls(threads=threads, **found)

    @classmethod
    def of(cls, device: Device) -> Machine:
        """Return the machine that a backend's device is: this one, or its current GPU."""
        return cls.current(device.threads) if device.kind == "cpu" else cls.current_gpu()

    @classmethod
    def current_gpu(cls) -> Machine:
        import torch

        from hcompile.codegen.triton_gpu.ahead import shared_bytes
        from hcompile.codegen.triton_gpu.machine import capability

        facts = torch.cuda.get_device_properties(torch.cuda.current_device())
        shared, l2 = shared_bytes(capability()), int(facts.L2_cache_size)
        return cls(threads=facts.multi_processor_count, l1_bytes=shared, l2_bytes=l2, l3_bytes=l2)

    def features(self) -> list[float]:
        """Return the facts as logarithms."""
        return [math.log2(getattr(self, field.name)) for field in fields(self)]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Machine:
        """Raises: ValueError that says what is wrong with the form."""
        return cls(**check_object("machine", value, (field.name for field in fields(cls))))
