"""The measuring child process: builds, checks and times candidates as its parent asks, one JSON line at a time.

Started as `python -m hcompile.tuning.worker`. Whatever a candidate does to this process, the parent sees as an answer,
a silence or an end. What libraries print goes to stderr: the pipe of the answers is not theirs.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hcompile.tuning.process import is_memory_error
from hcompile.tuning_db.record import Status

_PR_SET_PDEATHSIG = 1
_LARGEST_FILE_BYTES = 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--parent", type=int, required=True, help="process id of the parent, with which this one dies"
    )
    parser.add_argument("--backend", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--memory-bytes", type=int, required=True, help="what a candidate may allocate")
    parser.add_argument("--measures", action="store_true", help="checks and times, not only builds")
    options = parser.parse_args()
    _die_with(options.parent)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    from hcompile.tuning.bench import Bench

    bench = Bench(options.backend, options.threads, options.measures)
    if bench.device == "cpu":
        _limit_memory(options.memory_bytes)
    elif options.measures:
        _limit_device_memory(options.memory_bytes)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        answer = _answer(bench.operations(), json.loads(line))
        if bench.device != "cpu" and "failure" in answer and options.measures and not _device_answers():
            answer["last"] = True  # After an illegal access every later call fails too.
        print(json.dumps(answer), file=answers, flush=True)


def _answer(operations: Mapping[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    operation = request.pop("operation")
    try:
        values: dict[str, Any] = operations[operation](**request)
    except Exception as error:  # noqa: BLE001  whatever a candidate raises is its result, which the parent records
        memory = isinstance(error, MemoryError) or is_memory_error(str(error))
        failed = Status.COMPILE_ERROR if operation == "build" else Status.CRASH
        message = f"{type(error).__name__}: {error}"
        return {"failure": Status.OUT_OF_MEMORY if memory else failed, "message": message}
    return values


def _die_with(parent: int) -> None:
    """Let the system end this process when its parent ends in any way (Linux; elsewhere it ends at its next read)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It ended before the call above.
        os._exit(1)


def _limit_memory(allowance: int) -> None:
    """Bound what a candidate may add to the address space and write into one file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE_BYTES, _LARGEST_FILE_BYTES))
    pages = Path("/proc/self/statm")
    if pages.exists():
        used = int(pages.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + allowance, used + allowance))


def _limit_device_memory(allowance: int) -> None:
    """Bound what a candidate may add to the device's memory; address space says nothing there."""
    import torch

    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + allowance) / total))


def _device_answers() -> bool:
    """Say whether the device still takes work of this process, and give back what a failed candidate held."""
    import torch

    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


if __name__ == "__main__":
    main()
