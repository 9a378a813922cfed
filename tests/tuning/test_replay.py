"""Recorded sweeps: their file form, and what is computed from them. No kernel runs here."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest

from hcompile.patterns import Dense
from hcompile.tuning.evaluate import best_fixed, default_search, loss, problem_of, report
from hcompile.tuning.machine import Machine
from hcompile.tuning.measurement import Measurement
from hcompile.tuning.replay import Replay, Sweep
from hcompile.tuning_db.record import Status
from hcompile.workload import Workload
from tests.tuning.toy_space import toy_problem, toy_schedules, toy_us

WORKLOAD = Workload.of(
    [Dense()], kv_heads=1, head_dim=64, q_len=512, kv_len=512, causal=True, dtype="float32"
)


def toy_sweep(name: str = "toy", factor: float = 1.0, failing: int = 3) -> Sweep:
    """Return a sweep of the toy space: its first points fail, and a stage costs more the larger the factor is."""
    points = []
    for position, schedule in enumerate(toy_schedules()):
        us = toy_us(schedule) * (1 + 0.2 * (factor - 1) * schedule["stage"])
        wrong = Measurement(schedule, Status.WRONG)
        points.append(
            wrong if position < failing else Measurement(schedule, Status.OK, (us * 0.99, us, us * 1.02))
        )
    return Sweep(
        name=name,
        workload=WORKLOAD,
        recorded={"at": "2026-11-24T06:10:00.000000Z", "machine": Machine(threads=2).to_json()},
        points=tuple(points),
        features=tuple(tuple(row) for row in toy_problem().features.tolist()),
        default=7,
        repeats={300: (100.0, 102.0), 301: (100.0, 97.0), 302: (100.0, 100.0)},
    )


def test_a_sweep_is_read_as_it_was_written(tmp_path: Path) -> None:
    sweep, path = toy_sweep(), tmp_path / "sweep.json.gz"
    sweep.save(path)
    read = Sweep.load(path)
    assert read.workload == sweep.workload
    assert [each.schedule for each in read.points] == [each.schedule for each in sweep.points]
    assert [each.status for each in read.points] == [each.status for each in sweep.points]
    assert read.best().median_us == pytest.approx(sweep.best().median_us, abs=0.1)
    assert (read.features, read.default, read.recorded) == (sweep.features, sweep.default, sweep.recorded)
    again = tmp_path / "again.json.gz"
    read.save(again)
    assert again.read_bytes() == path.read_bytes()


def test_a_sweep_of_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sweep.json.gz"
    toy_sweep().save(path)
    form = json.loads(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(json.dumps({**form, "schema": 2}).encode()))
    with pytest.raises(ValueError, match="has schema 2, wanted 1"):
        Sweep.load(path)


def test_replay_answers_with_the_recorded_points_failures_included() -> None:
    sweep = toy_sweep()
    replay = Replay(sweep)
    asked = [sweep.points[at].schedule for at in (2, 40, 7)]
    assert list(replay.run(asked, math.inf)) == [sweep.points[at] for at in (2, 40, 7)]
    assert replay.trials == 3


def test_noise_is_the_median_difference_between_two_timings() -> None:
    assert toy_sweep().noise() == pytest.approx(0.02)


def test_loss_is_relative_to_the_best_and_infinite_for_failures() -> None:
    sweep = toy_sweep()
    assert loss(sweep, sweep.best().schedule) == 0
    assert loss(sweep, sweep.points[0].schedule) == math.inf


def test_the_fixed_schedule_is_right_everywhere_and_best_on_average() -> None:
    sweeps = [toy_sweep("a", factor=0.0), toy_sweep("b", factor=2.0, failing=200)]
    fixed = best_fixed(sweeps)
    total = {
        point.schedule: sum(math.log1p(loss(sweep, point.schedule)) for sweep in sweeps)
        for point in sweeps[0].points
    }
    assert total[fixed] == min(total.values())
    assert sweeps[0].best().schedule != sweeps[1].best().schedule


def test_sweeps_without_a_common_right_schedule_have_no_fixed_one() -> None:
    sweep = toy_sweep()
    none = Sweep(**{**{name: getattr(sweep, name) for name in sweep.__slots__}, "points": sweep.points[:3]})
    with pytest.raises(ValueError, match="no schedule is right in every sweep"):
        best_fixed([sweep, none])
    with pytest.raises(ValueError, match="sweep toy has no right point"):
        none.best()


def test_a_search_on_a_sweep_is_repeatable_and_ends_near_the_best() -> None:
    sweep = toy_sweep()
    first = default_search(sweep, 1)
    assert first == default_search(sweep, 1)
    assert first.winner is not None
    assert loss(sweep, first.winner.schedule) < 0.1


def test_the_problem_of_a_sweep_has_its_default_and_its_points() -> None:
    sweep = toy_sweep()
    problem = problem_of(sweep)
    assert problem.points[problem.default] == sweep.points[7].schedule
    assert len(problem.features) == len(sweep.points)


@pytest.mark.slow
def test_report_has_a_row_for_each_sweep_in_json_values() -> None:
    rows = report([toy_sweep("a"), toy_sweep("b", factor=2.0)])
    assert [row.name for row in rows] == ["a", "b"]
    assert json.loads(json.dumps([row.to_json() for row in rows]))[0]["failed"] == 3
    assert all(row.trials_after_others <= row.trials["random"] for row in rows)
