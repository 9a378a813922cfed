"""Workers that are started ahead of being needed: a deadly candidate then costs no start of a process.

A start takes many seconds with a GPU, and deadly candidates come at a faster rate. As many spares are wanted as workers
were lost so far, up to a limit: a run without deadly candidates starts none, one with many starts several at a time.

A spare holds its libraries and, with a GPU, a context of some hundred MB of device memory; once it is ready it waits
for its first request and uses nothing. While it starts it does disturb: `pool` times nothing then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hcompile.tuning.process import Worker


class Spares:
    """Workers that start, or wait for the one in use to be lost."""

    def __init__(self, start: Callable[[], Worker], most: int) -> None:
        """`most`: how many there may be at a time; 0 for none ever."""
        self._start = start
        self._most = most
        self._losses = 0
        self._workers: list[Worker] = []

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers)

    def note_loss(self) -> None:
        """Start spares, now that one worker more has been lost; returns before they are ready."""
        self._losses += 1
        while len(self._workers) < min(self._most, self._losses):
            self._workers.append(self._start())

    def take(self) -> Worker | None:
        """Return one that is ready, else the one that started first, None without any; it is the caller's then."""
        self._drop_ended()
        ready = [worker for worker in self._workers if worker.await_start(0.0)]
        for worker in ready or self._workers:
            self._workers.remove(worker)
            return worker
        return None

    def close(self) -> None:
        """End all of them."""
        for worker in self._workers:
            worker.kill()
        while self._workers:
            self._workers.pop().end()

    def _drop_ended(self) -> None:
        """Forget those that have ended by themselves: who needs one will start another, and see why it fails."""
        for worker in [worker for worker in self._workers if worker.has_ended()]:
            self._workers.remove(worker)
            worker.end()
