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
    options = parser.parse_args()
    _die_with(options.parent)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    from hcompile.tuning.bench import Bench

    bench = Bench(options.backend, options.threads)
    _limit_memory(options.memory_bytes)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(bench.operations(), json.loads(line))), file=answers, flush=True)


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


if __name__ == "__main__":
    main()
