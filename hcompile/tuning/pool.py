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
from hcompile.tuning.process import Reply, Worker
from hcompile.tuning_db.record import Status

START_LIMIT_S = 120.0
"""How long a worker may take to import its libraries."""

MOST_WORKERS = 16
"""Each worker holds its own copy of the libraries, a few hundred MB."""

_GRACE_S = 1.0


class WorkerPool:
    """Workers by number; the first one does all the timing, so that only one candidate is timed at a time.

    Workers start when they are first needed, in the thread that asks: on Linux they die with that thread. A context
    manager that ends them.
    """

    def __init__(self, arguments: Sequence[str], size: int | None = None) -> None:
        """Use `size` workers at most, by default one per available core."""
        self._arguments = tuple(arguments)
        self._workers: list[Worker | None] = [None] * min(MOST_WORKERS, size or len(os.sched_getaffinity(0)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers."""
        for number, worker in enumerate(self._workers):
            self._workers[number] = None
            if worker is not None:
                worker.end()

    def ask(self, request: Mapping[str, Any], limit_s: float) -> Reply:
        """Let the first worker answer one request."""
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
                for number, (request, deadline) in list(busy.items()):
                    if time.monotonic() >= deadline:
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
        worker = self._worker(number)
        selector.register(worker.output, selectors.EVENT_READ, number)
        if not worker.ready:
            return None, time.monotonic() + START_LIMIT_S
        index, request = queue.popleft()
        worker.send(request)
        return index, time.monotonic() + limit_s

    def _worker(self, number: int) -> Worker:
        worker = self._workers[number]
        if worker is None:
            arguments = self._arguments if number else (*self._arguments, "--measures")
            worker = self._workers[number] = Worker(arguments)
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
        return worker.end(grace_s)

    def _settle(self, number: int, request: int | None, reply: Reply, replies: dict[int, Reply]) -> None:
        if request is not None:
            replies[request] = reply
        elif reply.failure is not None:
            reason = reply.message.splitlines()[-1]
            raise EnvironmentFault(f"a measuring process does not start ({reason}): run hcompile doctor")
        else:
            self._worker(number).ready = True
