"""One child process that runs what must not run here, spoken to in JSON lines over pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from hcompile.tuning_db.record import Status

_STDERR_BYTES = 2000
_MEMORY_WORDS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "cannot allocate memory",
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A worker's answer, or the way in which it failed to give one (`failure`, with a message)."""

    values: Mapping[str, Any]
    failure: Status | None = None
    message: str = ""


class Worker:
    """A child process in a process group of its own.

    Attributes:
        ready: it has said that its imports are done.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        """Start the process; returns before its imports are done."""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        command = [sys.executable, "-m", "hcompile.tuning.worker", "--parent", str(os.getpid()), *arguments]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin: IO[bytes] = self._process.stdin
        self.output: IO[bytes] = self._process.stdout
        self._unread = b""
        self.ready = False

    def send(self, request: Mapping[str, Any]) -> None:
        """Write one request. That the worker is gone shows when its reply is read."""
        with suppress(BrokenPipeError):
            self._stdin.write(json.dumps(request).encode() + b"\n")
            self._stdin.flush()

    def receive(self) -> Mapping[str, Any] | None:
        """Read once and return the next line if it is whole by now.

        Raises:
            EOFError: the worker has ended.
        """
        piece = os.read(self.output.fileno(), 65536)
        if not piece:
            raise EOFError
        self._unread += piece
        line, newline, rest = self._unread.partition(b"\n")
        if not newline:
            return None
        self._unread = rest
        values: Mapping[str, Any] = json.loads(line)
        return values

    def end(self, grace_s: float = 0.0) -> Reply:
        """Kill the process group after `grace_s`, and return how the process ended, as a failure."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        with suppress(BrokenPipeError):
            self._stdin.close()
        self.output.close()
        with self._stderr:
            size = self._stderr.seek(0, os.SEEK_END)
            self._stderr.seek(max(0, size - _STDERR_BYTES))
            said = self._stderr.read().decode(errors="replace").strip()
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"left with code {code}"
        return Reply({}, _death(said), f"the worker {how}: {said}" if said else f"the worker {how}")


def _death(said: str) -> Status:
    """Tell an allocation that compiled code could not survive from other crashes, by what it said last."""
    return Status.OUT_OF_MEMORY if is_memory_error(said) else Status.CRASH


def is_memory_error(said: str) -> bool:
    """Say whether a message tells of a failed allocation."""
    return any(word in said.lower() for word in _MEMORY_WORDS)
