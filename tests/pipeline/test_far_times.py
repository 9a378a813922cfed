"""Times of far fields are measured once, and found again by a later run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hcompile.codegen import get_backend
from hcompile.patterns import Linear, Local
from hcompile.pipeline.far_times import FarTimes
from hcompile.pipeline.memory import StoredMemory
from hcompile.policy.memory import Forgetful
from hcompile.site import Site
from hcompile.tuning_db.store import open_db
from tests.policy.tiny_programs import tiny_text

SITE = Site("site", 0, 4, 2, 16, 0.25, causal=True)


def test_a_second_run_finds_the_same_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = get_backend("tvm_cpu")

    def times(facts: dict[str, Any]) -> list[float]:
        schedule = backend.safe_schedule("float32", SITE.head_dim)
        with open_db(str(tmp_path / "db.sqlite")) as db:
            memory = StoredMemory(db, tiny_text(), facts)
            found = FarTimes(backend, "float32", memory, lambda site, workload: schedule)
            return [
                found.head_us(SITE, pattern, 4000)
                for pattern in (Linear(32, 4), Linear(1024, 4), Linear(528, 4), Linear(2048, 4), Local(8))
            ]

    timed = {32: 3.0, 1024: 1.0}
    monkeypatch.setattr(FarTimes, "_time_us", lambda self, site, head, length, schedule: timed[head.window])
    assert times({}) == [3.0, 1.0, 2.0, 1.0, 0.0]
    timed[32] = 5.0
    assert times({}) == [3.0, 1.0, 2.0, 1.0, 0.0]
    assert times({"device": "another"}) == [5.0, 1.0, 3.0, 1.0, 0.0]


def test_a_far_field_takes_time() -> None:
    backend = get_backend("tvm_cpu")
    schedule = backend.safe_schedule("float32", SITE.head_dim)
    found = FarTimes(backend, "float32", Forgetful(), lambda site, workload: schedule)
    assert found.head_us(SITE, Linear(32, 4), 4000) > 0
