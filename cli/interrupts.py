"""SIGTERM and SIGHUP as Ctrl-C: a command that is told to end gives back its processes, folders and claims."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ends_as_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt in this block at the first SIGTERM or SIGHUP; later ones do not disturb the way out.

    Signals that this process ignores (nohup) stay ignored. Threads other than the main one cannot change that: there
    this does nothing.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    ours = [number for number, handler in before.items() if handler not in (None, signal.SIG_IGN)]
    if threading.current_thread() is not threading.main_thread():
        ours = []

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        for each in ours:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
