"""One thread aside: its bound, its end, and what it must never keep alive or hang."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref

import pytest

from hcompile.shadow.background import Background

PATIENCE_S = 30.0
"""For what should take no time: a test that waits longer fails instead of hanging."""


class Gate:
    """A job that says when it runs, and ends when it may."""

    def __init__(self) -> None:
        self.running, self.may_end = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.running.set()
        assert self.may_end.wait(PATIENCE_S)


def test_jobs_run_in_their_order_on_one_thread_that_is_a_daemon() -> None:
    background, seen = Background("aside", 3), []
    for number in range(3):
        assert background.reserve()
        background.submit(lambda number=number: seen.append((number, threading.current_thread())))  # type: ignore[misc]
    assert background.drain(PATIENCE_S)
    assert [number for number, _ in seen] == [0, 1, 2]
    (thread,) = {thread for _, thread in seen}
    assert thread.daemon and thread.name == "aside" and thread is not threading.current_thread()
    background.close(PATIENCE_S)


def test_no_more_is_held_than_there_are_places_the_running_job_included() -> None:
    background, gate = Background("aside", 1), Gate()
    assert background.reserve()
    background.submit(gate)
    assert gate.running.wait(PATIENCE_S)
    assert not background.reserve()
    gate.may_end.set()
    assert background.drain(PATIENCE_S)
    assert background.reserve()
    background.release()
    background.close(PATIENCE_S)


def test_no_thread_starts_before_the_first_job() -> None:
    before = threading.active_count()
    background = Background("aside", 1)
    assert threading.active_count() == before
    assert background.drain(0) and background.close(0)


def test_what_is_closed_takes_nothing_and_drops_what_waits() -> None:
    background, gate, ran = Background("aside", 2), Gate(), []
    for job in (gate, lambda: ran.append(1)):
        assert background.reserve()
        background.submit(job)
    assert gate.running.wait(PATIENCE_S)
    assert not background.close(0)
    gate.may_end.set()
    assert background.close(PATIENCE_S) and background.drain(PATIENCE_S)
    assert not ran and not background.reserve() and background.closed


def test_a_job_that_comes_when_it_is_closed_leaves_no_place_taken() -> None:
    background = Background("aside", 1)
    assert background.reserve()
    background.close(PATIENCE_S)
    background.submit(lambda: None)
    assert background.drain(PATIENCE_S)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_job_that_ends_the_thread_does_not_end_the_work() -> None:
    background, ran = Background("aside", 1), []

    def leave() -> None:
        raise SystemExit

    for job in (leave, lambda: ran.append(1)):
        assert background.reserve()
        background.submit(job)
        assert background.drain(PATIENCE_S)
        if background._thread is not None and job is leave:
            background._thread.join(PATIENCE_S)
    assert ran == [1]
    background.close(PATIENCE_S)


def test_a_job_is_forgotten_before_its_place_is_free() -> None:
    background = Background("aside", 1)

    class Held:
        def run(self) -> None: ...

    held = Held()
    gone = weakref.ref(held)
    assert background.reserve()
    background.submit(held.run)
    del held
    assert background.drain(PATIENCE_S)
    assert gone() is None
    background.close(PATIENCE_S)


def test_who_is_forgotten_leaves_no_thread() -> None:
    background = Background("aside", 1)
    assert background.reserve()
    background.submit(lambda: None)
    assert background.drain(PATIENCE_S)
    thread = background._thread
    assert thread is not None
    del background
    gc.collect()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_a_child_of_a_fork_starts_with_free_places_and_a_thread_of_its_own() -> None:
    code = """
import os, threading
from hcompile.shadow.background import Background
background, running, may_end = Background("aside", 1), threading.Event(), threading.Event()
assert background.reserve()
background.submit(lambda: (running.set(), may_end.wait(60)))
assert running.wait(60)
with background.lock:  # as if another thread held it
    child = os.fork()
if child == 0:
    ran = threading.Event()
    assert background.reserve()
    background.submit(ran.set)
    os._exit(0 if ran.wait(60) and background.drain(60) and background.close(60) else 1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
may_end.set()
assert background.drain(60)
raise SystemExit(code)
"""
    done = _python(code)
    assert done.returncode == 0, done.stderr


def test_a_process_ends_though_a_job_never_does() -> None:
    code = """
import threading
import hcompile.shadow.background as module
module._LAST_WAIT_S = 0.01
background, running = module.Background("aside", 1), threading.Event()
assert background.reserve()
background.submit(lambda: (running.set(), threading.Event().wait()))
assert running.wait(60)
print("over")
"""
    done = _python(code)
    assert (done.returncode, done.stdout) == (0, "over\n"), done.stderr


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": "."},
    )
