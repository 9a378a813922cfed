"""Which process answers after one was lost, and that every answer is about its own candidate."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import FrameType

import pytest
import torch

from hcompile.errors import EnvironmentFault
from hcompile.tuning import confine
from hcompile.tuning.measure import MeasureLimits, Measurer
from hcompile.tuning.pool import WorkerPool
from hcompile.tuning.process import Worker, is_memory_error
from hcompile.tuning_db.record import Status
from tests.tuning import fault_backends as faults
from tests.tuning.test_measure import BACKEND, ROOT, WORKLOAD, fault

SICK = "tests.tuning.sick_backends:"
Opener = Callable[..., Measurer]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """Opens measurers with one worker and some spares."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with ExitStack() as stack:

        def open_one(backend: str = BACKEND, spares: int = 0) -> Measurer:
            return stack.enter_context(Measurer(backend, 1, MeasureLimits(workers=1, spares=spares)))

        yield open_one


def status(measurer: Measurer, kind: int) -> Status:
    return measurer.measure(WORKLOAD, fault(kind)).status


def pid(pool: WorkerPool) -> int:
    return pool._worker(0)._process.pid


def test_a_process_that_lost_its_device_is_replaced_and_the_next_answers_are_their_own(
    opened: Opener,
) -> None:
    measurer = opened(SICK + "lost_device")
    assert status(measurer, faults.RIGHT) is Status.OK
    first = pid(measurer._pool)
    lost = measurer.measure(WORKLOAD, fault(faults.SEGFAULT))
    assert (lost.status, "illegal memory access" in lost.message) == (Status.CRASH, True)
    assert status(measurer, faults.WRONG) is Status.WRONG
    second = pid(measurer._pool)
    assert second != first
    assert status(measurer, faults.RIGHT) is Status.OK
    assert pid(measurer._pool) == second


def test_a_spare_takes_over_and_nothing_starts_while_a_candidate_is_timed(opened: Opener) -> None:
    measurer = opened(spares=2)
    assert status(measurer, faults.RIGHT) is Status.OK
    assert list(measurer._pool._spares) == []
    assert status(measurer, faults.SEGFAULT) is Status.CRASH
    (spare,) = measurer._pool._spares
    assert status(measurer, faults.SEGFAULT) is Status.CRASH
    assert spare not in measurer._pool._spares
    spares = list(measurer._pool._spares)
    assert [each.ready for each in spares] == [False, False]
    assert status(measurer, faults.RIGHT) is Status.OK
    assert measurer._pool._worker(0) in spares
    assert [each.ready for each in measurer._pool._spares] == [True]


def test_a_spare_that_has_ended_is_not_used(opened: Opener) -> None:
    measurer = opened(spares=1)
    assert status(measurer, faults.SEGFAULT) is Status.CRASH
    (spare,) = measurer._pool._spares
    spare.kill()
    spare._process.wait()
    assert status(measurer, faults.RIGHT) is Status.OK
    assert measurer._pool._worker(0) is not spare


def test_a_process_that_died_between_requests_is_no_candidate_s_failure(opened: Opener) -> None:
    measurer = opened()
    assert status(measurer, faults.RIGHT) is Status.OK
    worker = measurer._pool._worker(0)
    worker.kill()
    worker._process.wait()
    assert status(measurer, faults.RIGHT) is Status.OK


def test_the_answer_to_a_request_that_was_interrupted_is_nobody_s(opened: Opener) -> None:
    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    measurer = opened()
    measurer.build(WORKLOAD, [fault(faults.HANG)])
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            measurer.measure(WORKLOAD, fault(faults.HANG))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert measurer._pool._worker(0).owes
    assert status(measurer, faults.WRONG) is Status.WRONG


@pytest.mark.parametrize(("failing", "fatal"), [(2, False), (3, True)])
def test_a_start_that_fails_after_one_that_succeeded_is_tried_again(
    opened: Opener, monkeypatch: pytest.MonkeyPatch, failing: int, fatal: bool
) -> None:
    measurer = opened()
    assert status(measurer, faults.SEGFAULT) is Status.CRASH
    start, left = measurer._pool._start, [failing]

    def failing_start(number: int) -> Worker:
        left[0] -= 1
        return start(number) if left[0] < 0 else Worker(["--no-such-option"])

    monkeypatch.setattr(measurer._pool, "_start", failing_start)
    if fatal:
        with pytest.raises(EnvironmentFault, match="does not start"):
            status(measurer, faults.RIGHT)
    else:
        assert status(measurer, faults.RIGHT) is Status.OK


def test_a_crash_is_told_by_what_was_said_during_it_alone(opened: Opener) -> None:
    measurer = opened(SICK + "talkative")
    assert status(measurer, faults.NAN) is Status.WRONG
    crashed = measurer.measure(WORKLOAD, fault(faults.SEGFAULT))
    assert (crashed.status, crashed.message) == (Status.CRASH, "the worker ended by SIGSEGV")


@pytest.mark.parametrize("line", [b"no answer\n", b"[1]\n", b"\xff\n"])
def test_what_is_no_answer_counts_as_the_worker_s_end(line: bytes) -> None:
    read, write = os.pipe()
    worker = Worker.__new__(Worker)
    worker._unread = b""
    os.write(write, line)
    os.close(write)
    with os.fdopen(read, "rb", buffering=0) as worker.output, pytest.raises(EOFError):
        worker.receive()


def test_a_device_that_fails_to_synchronize_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(True))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert confine.device_answers("cuda")
    assert given_back == [True]

    def fails() -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    assert not confine.device_answers("cuda")
    assert confine.device_answers("cpu")


@pytest.mark.parametrize(
    "said",
    [
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 1024.00 GiB. GPU 0 has a total capacity of 79 GiB",
        "RuntimeError: Triton Error [CUDA]: out of memory",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_a_device_s_want_of_memory_is_known_by_its_messages(said: str) -> None:
    assert is_memory_error(said)
    assert not is_memory_error("CUDA error: an illegal memory access was encountered")
