"""A few worker processes that outlive their candidates: time limits, and a new process for one that is lost."""

from __future__ import annotations

import os
import selectors
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from hcompile.errors import EnvironmentFault
from hcompile.tuning.process import START_LIMIT_S, Reply, Worker
from hcompile.tuning.spares import Spares
from hcompile.tuning_db.record import Status

MOST_WORKERS = 16
"""Each worker holds its own copy of the libraries, a few hundred MB."""

_GRACE_S = 1.0

_FAILED_STARTS = 3
"""So many starts in turn may fail where one has succeeded before: what a lost one held may take a while to be free."""


class WorkerPool:
    """Workers by number; the first one does all the timing, so that only one candidate is timed at a time.

    The first one has spares. While a request is answered whose result is a time, no process of the pool starts.

    Workers start when they are first needed, in the thread that asks: on Linux they die with that thread. A context
    manager that ends them.
    """

    def __init__(self, arguments: Sequence[str], size: int | None = None, spares: int = 0) -> None:
        """Use `size` workers at most, by default one per available core, and `spares` more for the first of them."""
        self._arguments = tuple(arguments)
        self._workers: list[Worker | None] = [None] * min(MOST_WORKERS, size or len(os.sched_getaffinity(0)))
        self._spares = Spares(lambda: self._start(0), spares)
        self._has_started = False
        self._failed_starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            if worker is not None:
                worker.kill()  # All at once: with a GPU each takes a while to end.
        self._spares.close()
        for number, worker in enumerate(self._workers):
            self._workers[number] = None
            if worker is not None:
                worker.end()

    def ask(self, request: Mapping[str, Any], limit_s: float, *, quiet: bool = False) -> Reply:
        """Let the first worker answer one request; a `quiet` one waits until no process of the pool is starting."""
        if quiet:
            self._await_starts()
        return self._answer([request], limit_s, 1)[0]

    def map(self, requests: Sequence[Mapping[str, Any]], limit_s: float) -> list[Reply]:
        """Let all workers answer the requests; the replies come in the order of the requests."""
        return self._answer(requests, limit_s, min(len(self._workers), len(requests)))

    def _answer(self, requests: Sequence[Mapping[str, Any]], limit_s: float, workers: int) -> list[Reply]:
        replies: dict[int, Reply] = {}
        queue = deque(enumerate(requests))
        busy: dict[
            int, tuple[int | None, float]
        ] = {}  # By worker: its request (None while it starts), its deadline.
        with selectors.DefaultSelector() as selector:
            while queue or any(request is not None for request, _ in busy.values()):
                for number in range(workers):
                    if queue and number not in busy:
                        busy[number] = self._hand_out(number, queue, limit_s, selector)
                wait_s = max(0.0, min(deadline for _, deadline in busy.values()) - time.monotonic())
                for event, _ in selector.select(wait_s):
                    number = event.data
                    reply = self._listen(number)
                    if reply is None:
                        continue
                    selector.unregister(event.fileobj)
                    self._settle(number, busy.pop(number)[0], reply, replies)
                # Read once: while one that hangs is ended, the answers of others wait, and are not late for that.
                now = time.monotonic()
                for number, (request, deadline) in list(busy.items()):
                    if now >= deadline:
                        selector.unregister(self._worker(number).output)
                        busy.pop(number)
                        self._lose(number, 0.0)
                        limit = START_LIMIT_S if request is None else limit_s
                        reply = Reply({}, Status.TIMEOUT, f"no answer within {limit:g} s")
                        self._settle(number, request, reply, replies)
        return [replies[index] for index in range(len(requests))]

    def _hand_out(
        self,
        number: int,
        queue: deque[tuple[int, Mapping[str, Any]]],
        limit_s: float,
        selector: selectors.BaseSelector,
    ) -> tuple[int | None, float]:
        """Give a worker the next request, or start it, and return what it now does until when."""
        worker = self._fit_worker(number)
        selector.register(worker.output, selectors.EVENT_READ, number)
        if not worker.ready:
            return None, worker.start_deadline
        self._has_started, self._failed_starts = True, 0
        index, request = queue.popleft()
        worker.send(request)
        return index, time.monotonic() + limit_s

    def _fit_worker(self, number: int) -> Worker:
        """Return a worker for a new request, another than before where that one died since, or owes an old answer."""
        worker = self._workers[number]
        if worker is not None and worker.ready and (worker.owes or worker.has_ended()):
            self._lose(number, 0.0)
        if self._workers[number] is None:
            self._workers[number] = (None if number else self._spares.take()) or self._start(number)
        return self._worker(number)

    def _start(self, number: int) -> Worker:
        return Worker(self._arguments if number else (*self._arguments, "--measures"))

    def _await_starts(self) -> None:
        """Wait until the first worker and all others that have been begun are ready, or will not be."""
        self._fit_worker(0)
        for worker in (*self._workers, *self._spares):
            if worker is not None:
                worker.await_start(START_LIMIT_S)

    def _worker(self, number: int) -> Worker:
        worker = self._workers[number]
        assert worker is not None
        return worker

    def _listen(self, number: int) -> Reply | None:
        """Read from a worker that has output: its reply, its death as a failure, or None while a line is unfinished."""
        try:
            values = self._worker(number).receive()
        except EOFError:
            return self._lose(number, _GRACE_S)
        if values is not None and values.get("last"):
            self._lose(number, 0.0)  # Another one takes its place.
        return None if values is None else Reply(values)

    def _lose(self, number: int, grace_s: float) -> Reply:
        worker, self._workers[number] = self._worker(number), None
        end = worker.end(grace_s)
        if number == 0 and worker.ready:
            self._spares.note_loss()
        return end

    def _settle(self, number: int, request: int | None, reply: Reply, replies: dict[int, Reply]) -> None:
        if request is not None:
            replies[request] = reply
        elif reply.failure is None:
            self._worker(number).ready = True
        else:
            self._failed_starts += 1
            if not self._has_started or self._failed_starts >= _FAILED_STARTS:
                reason = reply.message.splitlines()[-1]
                raise EnvironmentFault(f"a measuring process does not start ({reason}): run hcompile doctor")
