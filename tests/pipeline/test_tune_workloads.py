"""Tuning workloads that are named, with real kernels into a real database."""

from __future__ import annotations

from pathlib import Path

import pytest

from hcompile.errors import UsageError
from hcompile.pipeline.tune_workloads import WorkloadsRequest, tune_workloads
from hcompile.tuning_db.store import open_db
from hcompile.workload import Workload

TEXTS = (
    "float32 1x2/1x16 100x100 causal: 1 dense, 1 local 32+4",
    "float32 1x1/1x16 64x64: 1 dense",
)


def test_each_workload_gets_its_fastest_schedule_and_the_database_keeps_it(tmp_path: Path) -> None:
    request = WorkloadsRequest(TEXTS, trials=2, db=str(tmp_path / "t.db"))
    report = tune_workloads(request)
    assert [each.workload for each in report.tuned] == [Workload.parse(text) for text in TEXTS]
    assert report.kernels_measured == 4
    with open_db(request.db) as db:
        times = {record.schedule: record.median_us for record in db.records() if record.median_us is not None}
    assert all(each.schedule.text in times for each in report.tuned)
    again = tune_workloads(request)
    assert again.kernels_measured == 0 and again.tuned == report.tuned


def test_a_workload_that_cannot_be_read_is_refused_before_any_work(tmp_path: Path) -> None:
    request = WorkloadsRequest((TEXTS[0], "nothing"), db=str(tmp_path / "t.db"))
    with pytest.raises(UsageError, match="--workload 'nothing': wanted a workload such as"):
        tune_workloads(request)
    assert not list(tmp_path.iterdir())
