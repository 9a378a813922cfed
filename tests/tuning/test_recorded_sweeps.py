"""What the tuner shows on the sweeps under benchmarks/results/: computed from records, so any machine can check it."""

from __future__ import annotations

import statistics

import pytest

from benchmarks.record import RESULTS
from benchmarks.sweep_targets import TARGETS
from benchmarks.tuner import as_a_search_begins, sweeps_of
from hcompile.tuning.evaluate import NEAR, NEAR_ON_GPU, SweepReport, alike, report
from hcompile.tuning_db.record import Status

CPU_SWEEPS, GPU_SWEEPS = sweeps_of("cpu"), sweeps_of("cuda")
PATHS = sorted(RESULTS.glob("sweep-*.json.gz"))
LARGEST_BYTES = 300_000
FACTS = {"at", "device", "versions", "source_sha256", "machine"}
SEEDS = range(3)  # The table of benchmarks.tuner takes ten: minutes.


@pytest.fixture(scope="module")
def rows() -> list[SweepReport]:
    return report(CPU_SWEEPS, SEEDS)


@pytest.fixture(scope="module")
def gpu_rows() -> list[SweepReport]:
    """Return the table of a GPU's sweeps, in which a search begins as one on the device does."""
    return report([as_a_search_begins(sweep) for sweep in GPU_SWEEPS], SEEDS, near=NEAR_ON_GPU)


needs_gpu_sweeps = pytest.mark.skipif(not GPU_SWEEPS, reason="no sweep of a GPU is recorded")


def test_six_workloads_are_swept_whole() -> None:
    sweeps = CPU_SWEEPS
    assert sorted(sweep.workload.dtype for sweep in sweeps) == ["bfloat16"] + ["float32"] * 5
    for sweep in sweeps:
        assert len({point.schedule for point in sweep.points}) == len(sweep.points) > 200
        assert all(point.ok for point in sweep.points)
        assert len(sweep.repeats) >= 20
        assert set(sweep.recorded) >= FACTS
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


@needs_gpu_sweeps
def test_six_workloads_are_swept_whole_on_a_gpu() -> None:
    named = {sweep.name: sweep for sweep in GPU_SWEEPS}
    wanted = TARGETS["cuda"].workloads()
    assert set(list(wanted)[:6]) <= set(named) <= set(wanted)
    for name, sweep in named.items():
        assert sweep.workload == wanted[name]
        assert len({point.schedule for point in sweep.points}) == len(sweep.points)
        assert set(sweep.recorded) >= FACTS
        # What did not compile ahead was pruned, and nothing else.
        pruned = {Status.COMPILE_ERROR, Status.OUT_OF_MEMORY, Status.TIMEOUT}
        assert all(
            row or point.status in pruned for row, point in zip(sweep.features, sweep.points, strict=True)
        )
        assert len({len(sweep.features[position]) for position in sweep.searched()}) == 1
        assert sweep.repeats
    assert len({str(sweep.recorded["device"]) for sweep in GPU_SWEEPS}) == 1


@pytest.mark.slow
@needs_gpu_sweeps
def test_on_a_gpu_noise_is_no_larger_than_what_counts_as_near(gpu_rows: list[SweepReport]) -> None:
    assert {row.name: row.noise for row in gpu_rows if row.noise / 2**0.5 > NEAR_ON_GPU} == {}


@pytest.mark.slow
@needs_gpu_sweeps
def test_on_a_gpu_guided_search_needs_half_the_trials_of_random_search(gpu_rows: list[SweepReport]) -> None:
    guided, random = (statistics.mean(row.trials[name] for row in gpu_rows) for name in ("xgboost", "random"))
    assert guided <= random / 2


@pytest.mark.slow
@needs_gpu_sweeps
def test_on_a_gpu_records_of_other_lengths_lead_near_the_best_in_ten_trials(
    gpu_rows: list[SweepReport],
) -> None:
    losses = {row.name: row.early_loss_after_lengths for row in gpu_rows}
    assert {name: loss for name, loss in losses.items() if loss is not None and loss > 0.03} == {}


def test_no_search_on_a_gpu_s_sweep_learns_from_a_cpu_s() -> None:
    assert not any(alike(cpu, gpu) for cpu in CPU_SWEEPS for gpu in GPU_SWEEPS)
