"""The figures of a benchmark: spreads, and one JSON form."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcompile.bench.report import BenchReport, LengthResult, Spread
from hcompile.runtime.crossover import Crossover

SPREAD = Spread(2.0, 1.0, 3.0, 7)
LENGTH = LengthResult(
    length=128,
    module=SPREAD,
    graph="dense",
    dense={"eager": SPREAD},
    strongest="eager",
    rest=SPREAD,
    pairs_kept=0.25,
    ratio=1.0,
    ratio_low=0.9,
    ratio_high=1.1,
    noisy=False,
)


@given(st.lists(st.floats(0.1, 1e9), min_size=1, max_size=40))
def test_a_spread_lies_within_its_samples(times: list[float]) -> None:
    spread = Spread.of(times)
    ends = (min(times) * (1 - 1e-9), max(times) * (1 + 1e-9))
    assert ends[0] <= spread.p20_us <= spread.median_us * (1 + 1e-9)
    assert spread.median_us <= spread.p80_us * (1 + 1e-9) and spread.p80_us <= ends[1]
    assert spread.samples == len(times)


def test_a_spread_is_of_medians_and_fifths() -> None:
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0, 6.0]) == Spread(3.5, 2.0, 5.0, 6)


def test_a_report_is_one_json_object() -> None:
    report = BenchReport(
        artifact="model.hcm",
        dtype="float32",
        device={"model": "CPU"},
        versions={"torch": "2.13"},
        linear_library="default",
        measured_at="2026-01-01T00:00:00Z",
        load_s=0.5,
        first_call_s=2.0,
        batch=4,
        crossover=Crossover.from_length(4096).to_json(),
        lengths=(LENGTH, replace(LENGTH, length=256, hybrid_peak_bytes=1)),
    )
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert [entry["length"] for entry in document["lengths"]] == [128, 256]
    assert document["lengths"][0]["dense"] == {
        "eager": {"median_us": 2.0, "p20_us": 1.0, "p80_us": 3.0, "samples": 7}
    }
    assert [entry["hybrid_peak_bytes"] for entry in document["lengths"]] == [None, 1]
    assert document["batch"] == 4
    assert Crossover.from_json(document["crossover"]) == Crossover.from_length(4096)
    assert document["first_call_s"] == pytest.approx(2.0)
