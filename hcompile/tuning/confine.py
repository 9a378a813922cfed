"""What a candidate may take of a measuring process, and whether it has left the process fit for another one."""

from __future__ import annotations

import resource
from pathlib import Path

_LARGEST_FILE_BYTES = 1 << 30


def forbid_core_dumps() -> None:
    """Let a crash leave no file. With a GPU's address space it would be large, and the end come after it is written."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_memory(allowance: int) -> None:
    """Bound what a candidate may add to the address space and write into one file, in bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE_BYTES, _LARGEST_FILE_BYTES))
    pages = Path("/proc/self/statm")
    if pages.exists():
        used = int(pages.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + allowance, used + allowance))


def limit_device_memory(allowance: int) -> None:
    """Bound what a candidate may add to the device's memory, in bytes; address space says nothing there."""
    import torch

    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + allowance) / total))


def device_answers(device: str) -> bool:
    """Say whether a kind of device still takes work of this process, and give back what a failed candidate held.

    An illegal access shows at some later call, and from then on at every one until the process ends.
    """
    if device == "cpu":
        return True
    import torch

    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True
