"""The report of an optimization and its JSON form."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from hcompile.pipeline.report import OptimizeReport
from tests.report import reports


@pytest.mark.parametrize("made", [reports.hybrid, reports.dense, reports.out_of_reach, reports.dry_run])
def test_json_form_is_read_back(made: Callable[[], dict[str, Any]]) -> None:
    value = made()
    report = OptimizeReport.from_json(value)
    assert report.to_json() == value
    assert OptimizeReport.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_reports_of_before_do_not_say_what_was_asked() -> None:
    value = reports.hybrid()
    del value["run"]
    assert OptimizeReport.from_json(value).run is None


@pytest.mark.parametrize(
    "change",
    [
        {"plan": {"schema": 1, "sites": []}},
        {"left": [{"name": "x"}]},
        {"guards": [{"kind": "odd", "input": "x"}]},
    ],
    ids=["plan", "left", "guards"],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"plan|left|guard"):
        OptimizeReport.from_json(reports.hybrid(**change))
