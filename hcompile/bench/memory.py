"""Peak memory of one call: on a CPU measured in a process of its own, less what the imports and the model take.

python -m hcompile.bench.memory ARTIFACT hybrid|dense LENGTH BATCH    prints the bytes
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hcompile.artifact.load import Opened, open_artifact
from hcompile.errors import EnvironmentFault
from hcompile.runtime.inductor import CompiledGraph
from hcompile.runtime.module import graphs_without_padding

SIDES = ("hybrid", "dense")
_TIME_LIMIT_S = 600
_PROC = Path("/proc/self")
_PLAIN_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""Settings of glibc with which freed memory goes back at once. As it comes, it keeps some for later, depending on what
it served before: the same call was seen to take 145 to 170 MB."""


def call_peak_bytes(artifact: Path, side: str, length: int, batch: int = 1) -> int:
    """Return how far a call of `batch` rows of `length` tokens raises the memory of a fresh process, in bytes.

    Raises:
        EnvironmentFault: the system keeps no such count (it is Linux's /proc), or the process failed.
    """
    command = [sys.executable, "-m", "hcompile.bench.memory", str(artifact), side, str(length), str(batch)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_TIME_LIMIT_S,
            check=True,
            env=os.environ | _PLAIN_MALLOC,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        last = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1:]
        raise EnvironmentFault(f"memory of a {side} call could not be measured: {' '.join(last)}") from error
    return int(done.stdout)


def graphs(opened: Opened) -> dict[str, CompiledGraph]:
    """Return the graph of each side, whichever of them calls of some length take."""
    dense, hybrid = graphs_without_padding(opened.program, opened.lowered)
    return {"hybrid": hybrid, "dense": dense}


def device_peak_bytes(call: Callable[[], object]) -> int:
    """Return what a call adds to the memory that torch has handed out on the device; our kernels take all theirs so."""
    import torch

    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _measure(artifact: str, side: str, length: int, batch: int) -> int:
    opened = open_artifact(artifact)
    graph = graphs(opened)[side]
    # A short call compiles the graph and builds the kernels, so that the long one shows the call alone.
    graph(*opened.inputs(min(128, length), batch))
    flat = opened.inputs(length, batch)
    before = _status_bytes("VmRSS")
    (_PROC / "clear_refs").write_text("5")  # resets the high-water mark (proc(5))
    graph(*flat)
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    for line in (_PROC / "status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise EnvironmentFault(f"/proc/self/status has no {field}: memory cannot be measured on this system")


if __name__ == "__main__":
    sys.stdout.write(f"{_measure(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))}\n")
