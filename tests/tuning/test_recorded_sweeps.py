"""What the tuner shows on the sweeps under benchmarks/results/: computed from records, so any machine can check it."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from hcompile.tuning.evaluate import NEAR, SweepReport, report
from hcompile.tuning.replay import Sweep

PATHS = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("sweep-*.json.gz"))
LARGEST_BYTES = 300_000
SEEDS = range(3)  # The table of benchmarks.tuner takes ten: minutes.


@pytest.fixture(scope="module")
def rows() -> list[SweepReport]:
    return report([Sweep.load(path) for path in PATHS], SEEDS)


def test_six_workloads_are_swept_whole() -> None:
    sweeps = [Sweep.load(path) for path in PATHS]
    assert sorted(sweep.workload.dtype for sweep in sweeps) == ["bfloat16"] + ["float32"] * 5
    for sweep in sweeps:
        assert len({point.schedule for point in sweep.points}) == len(sweep.points) > 200
        assert all(point.ok for point in sweep.points)
        assert len(sweep.repeats) >= 20
        assert {"at", "device", "versions", "source_sha256", "machine"} <= set(sweep.recorded)
    assert max(path.stat().st_size for path in PATHS) < LARGEST_BYTES


def test_model_guided_search_needs_fewer_trials_than_random_search(rows: list[SweepReport]) -> None:
    guided, random = (sum(row.trials[name] for row in rows) for name in ("xgboost", "random"))
    assert guided < random


def test_records_of_other_workloads_cost_no_trials(rows: list[SweepReport]) -> None:
    alone = statistics.mean(row.trials["xgboost"] for row in rows)
    assert statistics.mean(row.trials_after_others for row in rows) <= alone


def test_a_search_with_default_options_ends_within_three_per_cent(rows: list[SweepReport]) -> None:
    assert {row.name: row.found_loss for row in rows if row.found_loss > NEAR} == {}


def test_noise_is_no_larger_than_what_counts_as_near(rows: list[SweepReport]) -> None:
    """Two timings differ by the noise of both: one of them has less, by the root of two."""
    assert {row.name: row.noise for row in rows if row.noise / 2**0.5 > NEAR} == {}


def test_one_schedule_for_all_workloads_of_a_dtype_is_not_worse_than_the_default(
    rows: list[SweepReport],
) -> None:
    assert {row.name: row.fixed_loss for row in rows if row.fixed_loss > max(row.default_loss, NEAR)} == {}
    assert max(row.fixed_loss for row in rows) > 0
