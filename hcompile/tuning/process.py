"""One child process that runs what must not run here, spoken to in JSON lines over pipes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from hcompile.errors import EnvironmentFault
from hcompile.tuning_db.record import Status

START_LIMIT_S = 120.0
"""How long a worker may take to import its libraries, and to begin with its device."""

_END_LIMIT_S = 60.0
"""A killed process ends when the system has taken back what it held: where a kernel still runs on a GPU, that takes
seconds. One that takes longer than this holds a device that does not answer any more."""

_STDERR_BYTES = 2000
_MEMORY_WORDS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "cannot allocate memory",
    "alloc_failed",  # CUDA's libraries, whose memory is not torch's.
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
        owes: it was asked, and has not answered.
        start_deadline: until when it may take to become ready, in seconds of `time.monotonic`.
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
        self._said_before = 0
        self.ready = self.owes = False
        self.start_deadline = time.monotonic() + START_LIMIT_S

    def send(self, request: Mapping[str, Any]) -> None:
        """Write one request. That the worker is gone shows when its reply is read."""
        self.owes = True
        self._said_before = os.fstat(self._stderr.fileno()).st_size
        with suppress(BrokenPipeError):
            self._stdin.write(json.dumps(request).encode() + b"\n")
            self._stdin.flush()

    def receive(self) -> Mapping[str, Any] | None:
        """Read once and return the next line if it is whole by now.

        Raises:
            EOFError: the worker has ended, or what it writes is no answer.
        """
        piece = os.read(self.output.fileno(), 65536)
        if not piece:
            raise EOFError
        self._unread += piece
        line, newline, rest = self._unread.partition(b"\n")
        if not newline:
            return None
        self._unread = rest
        try:
            values = json.loads(line)
        except ValueError as error:
            raise EOFError from error
        if not isinstance(values, dict):
            raise EOFError
        self.owes = False
        return values

    def await_start(self, limit_s: float) -> bool:
        """Wait for the worker to become ready, `limit_s` seconds at most, and return whether it is."""
        until = min(time.monotonic() + limit_s, self.start_deadline)
        poll = select.poll()
        poll.register(self.output, select.POLLIN)
        while not self.ready:
            if not poll.poll(1000 * max(0.0, until - time.monotonic())):
                return False
            try:
                self.ready = self.receive() is not None
            except EOFError:
                return False
        return True

    def has_ended(self) -> bool:
        """Say whether the process is gone, whatever is left to be read of it."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """Kill the process group, and do not wait for its end."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self, grace_s: float = 0.0) -> Reply:
        """Kill the process group after `grace_s`, and return how the process ended, as a failure.

        When this returns, the process holds no device any more.

        Raises:
            EnvironmentFault: it cannot be ended.
        """
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        self.kill()
        try:
            code = self._process.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise EnvironmentFault(
                f"measuring process {self._process.pid} does not end within {_END_LIMIT_S:g} s of being killed: its "
                "device hangs, reset it"
            ) from error
        with suppress(BrokenPipeError):
            self._stdin.close()
        self.output.close()
        with self._stderr:
            size = self._stderr.seek(0, os.SEEK_END)
            # What was said during earlier requests tells nothing of this end.
            self._stderr.seek(max(self._said_before, size - _STDERR_BYTES))
            said = self._stderr.read().decode(errors="replace").strip()
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"left with code {code}"
        return Reply({}, _death(said), f"the worker {how}: {said}" if said else f"the worker {how}")


def _death(said: str) -> Status:
    """Tell an allocation that compiled code could not survive from other crashes, by what it said last."""
    return Status.OUT_OF_MEMORY if is_memory_error(said) else Status.CRASH


def is_memory_error(said: str) -> bool:
    """Say whether a message tells of a failed allocation."""
    return any(word in said.lower() for word in _MEMORY_WORDS)
