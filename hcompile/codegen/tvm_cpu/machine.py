"""The facts of this CPU: what code may be generated for it, and what measurements on it are kept under."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hcompile.tuning_db.key import Device
from hcompile.values import sha256_json

_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Cpu:
    """One CPU, as Linux describes it.

    Attributes:
        model: name with family and model numbers, since cloud machines hide the exact name.
        flags: instruction set extensions.
    """

    model: str
    flags: frozenset[str]

    @property
    def isa(self) -> str:
        """The vector extensions that kernels make use of, such as `avx512`."""
        if {"avx512f", "avx512dq", "avx512vl", "avx512bw"} <= self.flags:
            return "avx512-bf16" if "avx512_bf16" in self.flags else "avx512"
        return "avx2" if {"avx2", "fma"} <= self.flags else platform.machine()

    @property
    def vector_bits(self) -> int:
        return 512 if self.isa.startswith("avx512") else 256

    @property
    def vector_registers(self) -> int:
        return 32 if self.isa.startswith("avx512") else 16

    @property
    def dot_bfloat16(self) -> bool:
        return self.isa == "avx512-bf16"

    @property
    def digest(self) -> str:
        """Equal for CPUs that the compiler generates the same code for."""
        return sha256_json([self.model, sorted(self.flags)])


@cache
def this_cpu() -> Cpu:
    """Return this machine's CPU."""
    return (
        read_cpu(_CPU_INFO.read_text())
        if _CPU_INFO.exists()
        else Cpu(platform.processor() or "cpu", frozenset())
    )


def read_cpu(text: str) -> Cpu:
    """Return the first CPU in the text of /proc/cpuinfo."""
    first = text.strip().split("\n\n")[0]
    fields = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())
    }
    name = fields.get("model name", fields.get("CPU part", platform.machine()))
    numbers = "/".join(fields[key] for key in ("cpu family", "model", "stepping") if key in fields)
    flags = fields.get("flags", fields.get("Features", ""))
    return Cpu(f"{name} ({numbers})" if numbers else name, frozenset(flags.split()))


def this_device() -> Device:
    """Return what measurements on this machine are kept under."""
    import torch

    cpu = this_cpu()
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device(
        kind="cpu",
        model=cpu.model,
        isa=cpu.isa,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        memory_class=memory_class(memory_bytes),
    )


def memory_class(memory_bytes: int) -> str:
    """Return the least power of two of GiB that holds this much memory, such as `64GiB`."""
    return f"{1 << max(0, (memory_bytes - 1).bit_length() - 30)}GiB"
