"""Work beside the callers: one thread, a bound on what it holds, and nobody who waits for it.

The thread is a daemon and holds nothing while it waits, so what the work belongs to can be collected, which ends the
thread. At the interpreter's exit a job that runs is waited for, a little, since a thread that torch has sent into C++
must not be cut off there. A child of a fork starts with an idle copy: threads do not come along, and locks may be held.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

_LAST_WAIT_S = 5.0
"""For a running job at the interpreter's exit, in seconds."""

Job = Callable[[], None]


class _Places:
    """How many jobs are held; shared with the thread, which must not know the `Background`."""

    def __init__(self, size: int, *, closed: bool = False) -> None:
        self.changed = threading.Condition()
        self.free = self.size = size
        self.closed = closed

    def give_back(self) -> None:
        with self.changed:
            self.free += 1
            self.changed.notify_all()


class Background:
    """Runs jobs on one daemon thread, which starts with the first of them.

    A job takes a place first (`reserve`), is made in it and submitted; the place is free again when the job is done and
    what it held is gone. Jobs must not raise.
    """

    def __init__(self, name: str, size: int) -> None:
        """`size`: places, that is, jobs that wait or run."""
        self._name = name
        self._places = _Places(size)
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        # SimpleQueue.put may be called from a finalizer, whatever its thread holds.
        self._ended = weakref.finalize(self, self._queue.put, None)
        _LIVE.add(self)

    @property
    def lock(self) -> threading.Condition:
        """A lock for what jobs and callers share; another one after a fork."""
        return self._places.changed

    @property
    def closed(self) -> bool:
        return self._places.closed

    def reserve(self) -> bool:
        """Take a place and return True, or return False: none is free, or it is closed. Never waits for a job."""
        with self._places.changed:
            if self._places.closed or not self._places.free:
                return False
            self._places.free -= 1
            return True

    def release(self) -> None:
        """Give a place back in which no job came to be."""
        self._places.give_back()

    def submit(self, job: Job) -> None:
        """Run a job in a place that was reserved. Never waits for a job.

        Raises:
            RuntimeError: the process can start no thread; the place is still reserved.
        """
        with self._places.changed:
            if self._places.closed:
                self._places.give_back()
                return
            if self._thread is None or not self._thread.is_alive():
                arguments = (self._queue, self._places)
                thread = threading.Thread(target=_serve, args=arguments, name=self._name, daemon=True)
                thread.start()
                self._thread = thread
            self._queue.put(job)

    def drain(self, timeout_s: float | None = None) -> bool:
        """Wait until every job is done; return False where that takes longer."""
        places = self._places
        with places.changed:
            return places.changed.wait_for(lambda: places.free == places.size, timeout_s)

    def close(self, timeout_s: float | None = None) -> bool:
        """Take no more jobs, drop those that wait and wait for the one that runs; return False if that takes longer."""
        with self._places.changed:
            self._places.closed = True
            thread = self._thread
        self._queue.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)
            return not thread.is_alive()
        return True

    def _start_anew(self) -> None:
        self._ended.detach()
        self._places = _Places(self._places.size, closed=self._places.closed)
        self._queue = SimpleQueue()
        self._thread = None
        self._ended = weakref.finalize(self, self._queue.put, None)


_LIVE: weakref.WeakSet[Background] = weakref.WeakSet()


def _serve(queue: SimpleQueue[Job | None], places: _Places) -> None:
    while True:
        job = queue.get()
        if job is None:
            return
        try:
            if not places.closed:
                job()
        finally:
            del job
            places.give_back()


def _after_fork() -> None:
    for background in list(_LIVE):
        background._start_anew()


def _at_exit() -> None:
    for background in list(_LIVE):
        background.close(_LAST_WAIT_S)


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
