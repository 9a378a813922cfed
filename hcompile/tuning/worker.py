"""The measuring child process: builds, checks and times candidates as its parent asks, one JSON line at a time.

Started as `python -m hcompile.tuning.worker`. Whatever a candidate does to this process, the parent sees as an answer,
a silence or an end. What libraries print goes to stderr: the pipe of the answers is not theirs.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from hcompile.tuning import confine
from hcompile.tuning.process import is_memory_error
from hcompile.tuning_db.record import Status

_PR_SET_PDEATHSIG = 1


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
    confine.forbid_core_dumps()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    from hcompile.tuning.bench import Bench

    bench = Bench(options.backend, options.threads, options.measures)
    if bench.device == "cpu":
        confine.limit_memory(options.memory_bytes)
    elif options.measures:
        confine.limit_device_memory(options.memory_bytes)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        answer = _answer(bench.operations(), json.loads(line))
        if "failure" in answer and options.measures and not confine.device_answers(bench.device):
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


if __name__ == "__main__":
    main()
