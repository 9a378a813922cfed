"""Sweeps as a GPU gives them: with what the compiler said, and points that did not compile. The times are made up."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

from benchmarks.sweep_targets import gpu_workloads
from benchmarks.tuner import as_a_search_begins, sweeps_of, table
from hcompile.schedules import Schedule
from hcompile.schedules.template import GpuProblem, get_template
from hcompile.tuning.evaluate import NEAR_ON_GPU, alike, default_search, loss, loss_after, problem_of, report
from hcompile.tuning.features import compiler_features
from hcompile.tuning.machine import Machine
from hcompile.tuning.measurement import Measurement
from hcompile.tuning.ranking import LEARNED, rank_quality
from hcompile.tuning.replay import Sweep
from hcompile.tuning.strategies import make_strategy
from hcompile.tuning.tune import Tuner
from hcompile.tuning_db.record import Status

GPU = Machine(threads=132, l1_bytes=232_448, l2_bytes=50 << 20, l3_bytes=50 << 20)
DEVICE = {"kind": "cuda", "model": "made up", "isa": "sm_90"}
HOPPER = GpuProblem("bfloat16", 128, 90, 232_448)


def facts(schedule: Schedule) -> dict[str, float]:
    return {"registers": 40 + schedule["keys"] // 2 + 8 * schedule["warps"], "stack_bytes": 0}


def us(schedule: Schedule, scale: float, best_splits: int) -> float:
    """Return a time that falls with the bytes under way and rises with the distance from the best number of splits."""
    under_way = schedule["keys"] * schedule["stages"] / 384
    apart = abs(math.log2(schedule["splits"] / best_splits))
    return scale * (1 + 0.1 * apart + 0.2 * (1 - under_way) ** 2 + 0.002 * schedule["warps"])


def decode_sweep(name: str, scale: float = 100.0, best_splits: int = 9, model: str = "made up") -> Sweep:
    """Return a sweep of the decode space in which what keeps most in shared memory does not compile."""
    space = get_template("triton_decode").space(HOPPER)
    points: list[Measurement] = []
    rows: list[tuple[float, ...]] = []
    for schedule in [space.default(), *(each for each in space.enumerate() if each != space.default())]:
        if schedule["stages"] == 4 and schedule["keys"] == 64:
            points.append(Measurement(schedule, Status.COMPILE_ERROR, message="does not fit"))
            rows.append(())
            continue
        time_us = us(schedule, scale, best_splits)
        wrong = schedule["splits"] == 64
        points.append(
            Measurement(schedule, Status.WRONG)
            if wrong
            else Measurement(schedule, Status.OK, (time_us, time_us, time_us))
        )
        rows.append((*space.encode(schedule), *compiler_features(facts(schedule))))
    return Sweep(
        name=name,
        workload=gpu_workloads()[name],
        recorded={
            "at": "2026-11-25T06:10:00.000000Z",
            "device": {**DEVICE, "model": model},
            "machine": GPU.to_json(),
        },
        points=tuple(points),
        features=tuple(rows),
        default=0,
        repeats={0: (100.0, 101.0), 1: (100.0, 100.0)},
    )


LONG, SHORT = "cuda-decode-window-1024-b1-131072", "cuda-decode-window-1024-b1-16384"
OTHER = "cuda-decode-dense-b64-8192"


def test_a_sweep_keeps_what_the_compiler_said_and_what_did_not_compile(tmp_path: Path) -> None:
    sweep, path = decode_sweep(LONG), tmp_path / f"sweep-{LONG}.json.gz"
    sweep.save(path)
    read = Sweep.load(path)
    assert (read.features, read.recorded, read.template) == (sweep.features, sweep.recorded, "triton_decode")
    assert [each.status for each in read.points] == [each.status for each in sweep.points]
    assert Machine.from_json(read.recorded["machine"]) == GPU
    assert sweeps_of("cuda", tmp_path) == [read]
    assert sweeps_of("cpu", tmp_path) == []


def test_a_search_on_a_sweep_sees_what_a_search_on_the_device_does() -> None:
    """It sees what compiled ahead, wrong points too, with the features that `Tuner` gives them."""
    sweep = decode_sweep(LONG)
    problem = problem_of(sweep)
    compiled = [each for each in sweep.points if each.status is not Status.COMPILE_ERROR]
    assert list(problem.points) == [each.schedule for each in compiled]
    assert problem.points[problem.default] == sweep.points[0].schedule
    assert any(each.status is Status.WRONG for each in compiled)

    class Compiler:
        def facts(self, _: object, schedules: list[Schedule]) -> list[dict[str, float] | None]:
            known = {each.schedule: each.status for each in sweep.points}
            return [None if known[each] is Status.COMPILE_ERROR else facts(each) for each in schedules]

    class Member:
        compiles_ahead = True

        def space(self, _: object) -> object:
            return get_template("triton_decode").space(HOPPER)

    tuner = object.__new__(Tuner)
    tuner._measurer = Compiler()  # type: ignore[assignment]
    kept, encoded = tuner._encoded(Member(), sweep.workload, [each.schedule for each in sweep.points])  # type: ignore[arg-type]
    assert kept == problem.points
    assert [tuple(row) for row in encoded] == [sweep.features[position] for position in sweep.searched()]


def test_starts_that_did_not_compile_are_left_out() -> None:
    sweep = decode_sweep(LONG)
    pruned = sweep.features.index(())
    sweep = replace(sweep, default=pruned, also=(pruned, 5))
    problem = problem_of(sweep)
    assert problem.default == 0
    assert [problem.points[at] for at in problem.also] == [sweep.points[5].schedule]


def test_a_search_begins_with_the_starts_of_the_gpu_that_was_swept() -> None:
    begun = as_a_search_begins(replace(decode_sweep(LONG), default=4))
    starts = get_template("triton_decode").space(HOPPER).starts()
    assert tuple(begun.points[at].schedule for at in (begun.default, *begun.also)) == starts


def test_searches_learn_from_sweeps_of_their_template_and_device_only() -> None:
    sweep = decode_sweep(LONG)
    assert alike(sweep, decode_sweep(SHORT))
    assert not alike(sweep, decode_sweep(SHORT, model="another"))
    other = replace(sweep, points=(Measurement(Schedule.of("hopper_prefill", {"keys": 64}), Status.WRONG),))
    assert not alike(sweep, other)


def test_records_of_another_length_lead_to_the_best_in_ten_trials() -> None:
    sweeps = [decode_sweep(LONG), decode_sweep(SHORT, 60.0), decode_sweep(OTHER, 900.0, best_splits=1)]
    alone, same = decode_sweep(LONG, model="another"), "alone"
    rows = report([*sweeps, replace(alone, name=same)], range(1), NEAR_ON_GPU)
    by_name = {row.name: row for row in rows}
    assert json.loads(json.dumps([row.to_json() for row in rows]))[0]["near"] == NEAR_ON_GPU
    assert all(row.points == 156 and row.pruned == 24 and row.failed > row.pruned for row in rows)
    after = {name: row.early_loss_after_lengths for name, row in by_name.items()}
    assert after[OTHER] is None and after[same] is None
    for name in (LONG, SHORT):
        found = after[name]
        assert found is not None and found <= 0.03
    assert all(row.rank_correlation > 0.5 for row in rows)
    assert by_name[same].trials_after_others == by_name[same].trials["xgboost"]
    drawn = table(rows, NEAR_ON_GPU)
    assert drawn.row_count == 4
    assert drawn.columns[3].header == "within 2%"


def test_rank_quality_is_of_points_that_were_not_learned_from() -> None:
    """Times that features tell are ranked well; with times that they do not tell, ranks mean nothing."""
    sweep = decode_sweep(LONG)
    correlation, regret = rank_quality(sweep, problem_of(sweep), 0)
    assert correlation > 0.5 and 0 <= regret < 0.2
    assert (correlation, regret) == rank_quality(sweep, problem_of(sweep), 0)
    right = [each for each in sweep.points if each.ok]
    times = {each.schedule: right[(37 * at) % len(right)].times_us for at, each in enumerate(right)}
    mixed = replace(
        sweep,
        points=tuple(
            replace(each, times_us=times[each.schedule]) if each.ok else each for each in sweep.points
        ),
    )
    assert abs(rank_quality(mixed, problem_of(mixed), 0)[0]) < 0.5


def test_rank_quality_of_a_model_that_has_seen_failures_only_is_none() -> None:
    sweep = decode_sweep(LONG)
    problem = problem_of(sweep)
    drawn = {problem.points[at] for at in make_strategy("random", problem, 0).propose([], LEARNED).positions}
    failing = replace(
        sweep,
        points=tuple(
            Measurement(each.schedule, Status.WRONG) if each.schedule in drawn else each
            for each in sweep.points
        ),
    )
    assert rank_quality(failing, problem, 0) == (0.0, math.inf)


def test_the_loss_after_all_trials_is_none_and_falls_with_the_trials() -> None:
    sweep = decode_sweep(LONG)
    problem = problem_of(sweep)
    losses = [loss_after(sweep, problem, "random", 0, trials) for trials in (1, 5, 20, 10_000)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == 0
    result = default_search(sweep, 0)
    assert result.winner is not None and loss(sweep, result.winner.schedule) < 0.1
