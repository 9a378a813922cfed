"""Which process holds a claim, and whether it lives: told apart from a later one of the same number."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

FOREIGN_LEASE = timedelta(hours=1)
"""How long a claim of another host or container holds: whether its process lives cannot be seen from here."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Owner:
    """A process.

    Attributes:
        host: host name and, on Linux, process id namespace: where `pid` has a meaning.
        boot_id: names the boot of the host; empty where the system has none.
        started: start time in clock ticks since the boot; empty where the system does not say.
    """

    host: str
    boot_id: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> Owner:
        """Return the calling process."""
        pid = os.getpid()
        return cls(_host(), _boot_id(), pid, _started(pid) or "")

    def is_dead(self, claimed_at: str) -> bool:
        """Say whether the process that claimed at this UTC time is gone."""
        if self.host != _host():
            return datetime.now(UTC) - datetime.fromisoformat(claimed_at) > FOREIGN_LEASE
        return self.boot_id != _boot_id() or self.started != _started(self.pid)


def _host() -> str:
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:  # Only Linux has namespaces.
        namespace = ""
    return f"{socket.gethostname()} {namespace}".rstrip()


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # Only Linux has the file.
        return ""


def _started(pid: int) -> str | None:
    """Return the start time of a running process, or None when there is none of this number."""
    if not _BOOT_ID.exists():
        return _started_unknown(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()  # The name before the bracket may hold anything.
    return None if state in "ZX" else rest[18]  # A zombie has ended; field 22 of proc(5) is the start time.


def _started_unknown(pid: int) -> str | None:
    """Tell by signal 0 whether a process exists, where nothing says when it started."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return ""
