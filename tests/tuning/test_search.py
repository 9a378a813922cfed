"""The search loop and its strategies, on a space whose times are known."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcompile.errors import UsageError
from hcompile.schedules import Schedule
from hcompile.tuning.measurement import Measurement
from hcompile.tuning.search import SearchOptions, Stop, search
from hcompile.tuning.strategies import STRATEGIES, Proposal, make_strategy
from hcompile.tuning_db.record import Status
from tests.tuning.toy_space import ToyRunner, toy_problem, toy_schedules, toy_us

PROBLEM = toy_problem()
BEST_US = min(toy_us(point) for point in PROBLEM.points)


def _endless(strategy: str, seed: int, trials: int = 60) -> SearchOptions:
    """Options of a search that only its trials end."""
    return SearchOptions(strategy=strategy, seed=seed, trials=trials, patience=10**6)


def _trials_to(share: float, strategy: str, seed: int) -> int:
    moves = make_strategy(strategy, PROBLEM, seed)
    history: list[Measurement] = []
    while not history or min(each.median_us for each in history) > BEST_US * (1 + share):
        schedules = [PROBLEM.points[position] for position in moves.propose(history, 4).positions]
        history += ToyRunner().run(schedules, float("inf"))
    return len(history)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), trials=st.integers(1, 40), batch=st.integers(1, 9))
def test_every_candidate_is_legal_and_proposed_once(
    strategy: str, seed: int, trials: int, batch: int
) -> None:
    runner = ToyRunner()
    options = SearchOptions(strategy=strategy, seed=seed, trials=trials, batch=batch, patience=10**6)
    search(PROBLEM, runner, options)
    assert len(runner.asked) == len(set(runner.asked)) == trials
    assert set(runner.asked) <= set(PROBLEM.points)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_equal_seeds_give_equal_searches_and_others_do_not(strategy: str) -> None:
    first, again, other = (search(PROBLEM, ToyRunner(), _endless(strategy, seed)) for seed in (3, 3, 4))
    assert first == again
    assert first.history != other.history


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_a_resumed_search_proposes_what_an_uninterrupted_one_does(strategy: str) -> None:
    whole = search(PROBLEM, ToyRunner(), _endless(strategy, 5, trials=24))
    known = whole.history[:12]
    assert search(PROBLEM, ToyRunner(), _endless(strategy, 5, trials=24), known).history == whole.history


def test_model_needs_at_most_half_the_trials_of_random_search() -> None:
    needed = {
        name: statistics.median(_trials_to(0.03, name, seed) for seed in range(10)) for name in STRATEGIES
    }
    assert needed["xgboost"] <= needed["random"] / 2


def test_default_schedule_is_the_model_guided_search_s_first_trial() -> None:
    problem = toy_problem(default=77)
    assert (
        search(problem, ToyRunner(), _endless("xgboost", 0, trials=1)).history[0].schedule
        == problem.points[77]
    )


def test_model_guided_search_explores_beyond_what_it_hopes_most_of() -> None:
    known = search(PROBLEM, ToyRunner(), _endless("xgboost", 0, trials=30)).history
    proposal = make_strategy("xgboost", PROBLEM, 0).propose(known, 100)
    everything = make_strategy("xgboost", PROBLEM, 0).propose(known, len(PROBLEM.points)).positions
    assert len(set(proposal.positions)) == 100
    assert not set(proposal.positions) <= set(everything[:100])


def test_failed_candidates_are_kept_and_never_win() -> None:
    fast = sorted(PROBLEM.points, key=toy_us)
    result = search(PROBLEM, ToyRunner(broken=frozenset(fast[:40])), _endless("xgboost", 0))
    failed = [each for each in result.history if not each.ok]
    assert failed
    assert all(each.status is Status.WRONG for each in failed)
    assert result.winner is not None
    assert result.winner.schedule not in fast[:40]


def test_a_search_whose_candidates_all_fail_ends_without_a_winner() -> None:
    result = search(PROBLEM, ToyRunner(broken=frozenset(PROBLEM.points)), _endless("xgboost", 0, trials=20))
    assert result.winner is None
    assert len(result.history) == 20


def test_a_candidate_that_another_process_measures_is_left_to_it() -> None:
    busy = frozenset(PROBLEM.points[:400])
    result = search(PROBLEM, ToyRunner(busy=busy), _endless("random", 0, trials=len(PROBLEM.points)))
    assert result.stop is Stop.EXHAUSTED
    assert {each.schedule for each in result.history} == set(PROBLEM.points) - busy


def test_what_another_process_measures_meanwhile_can_win() -> None:
    best = min(PROBLEM.points, key=toy_us)

    class Shared(ToyRunner):
        def known(self) -> Sequence[Measurement]:
            elsewhere = Schedule("toy", (("other", 1),))
            return [Measurement(each, Status.OK, (BEST_US,)) for each in (elsewhere, best)]

    result = search(PROBLEM, Shared(busy=frozenset([best])), _endless("random", 0, trials=8))
    assert result.winner is not None
    assert result.winner.schedule == result.history[-1].schedule == best
    assert len(result.history) == 9


def test_search_ends_when_its_trials_are_used_up() -> None:
    assert search(PROBLEM, ToyRunner(), _endless("random", 0, trials=7)).stop is Stop.TRIALS


def test_search_ends_when_nothing_has_improved_for_a_while() -> None:
    options = SearchOptions(strategy="random", trials=400, patience=20, noise=0.02)
    result = search(PROBLEM, ToyRunner(), options)
    assert result.stop is Stop.PATIENCE
    best = min(each.median_us for each in result.history[:-20])
    assert min(each.median_us for each in result.history[-20:]) > best * 0.98


def test_search_ends_when_the_model_hopes_for_nothing_beyond_the_noise() -> None:
    result = search(PROBLEM, ToyRunner(), SearchOptions(trials=400, patience=200, noise=0.05))
    assert result.stop is Stop.HOPELESS
    assert min(each.median_us for each in result.history) <= BEST_US * 1.05


def test_search_ends_at_its_time_limit_after_one_batch() -> None:
    result = search(PROBLEM, ToyRunner(), SearchOptions(strategy="random", trials=400, time_limit_s=1e-9))
    assert (result.stop, len(result.history)) == (Stop.TIME, SearchOptions().batch)


def test_the_winner_is_the_finalist_that_wins_the_interleaved_timing() -> None:
    class Swapped(ToyRunner):
        def retime(self, measurements: Sequence[Measurement]) -> list[Measurement]:
            return [
                Measurement(each.schedule, Status.OK, (1000.0 - rank,))
                for rank, each in enumerate(measurements)
            ]

    result = search(
        PROBLEM, Swapped(), SearchOptions(strategy="random", trials=300, patience=300, noise=0.05)
    )
    right = sorted(result.history, key=lambda each: each.median_us)
    assert result.winner is not None
    assert result.winner.schedule == right[2].schedule


def test_progress_tells_trials_and_the_best_time_so_far() -> None:
    seen: list[tuple[int, int, float | None]] = []
    search(PROBLEM, ToyRunner(), _endless("random", 0, trials=9), progress=lambda *told: seen.append(told))
    assert [(done, most) for done, most, _ in seen] == [(done, 9) for done in range(1, 10)]
    times = [best for _, _, best in seen]
    assert times == sorted(times, key=lambda best: -(best or 0))


def test_random_search_walks_through_the_whole_space() -> None:
    result = search(PROBLEM, ToyRunner(), _endless("random", 1, trials=10**4))
    assert {each.schedule for each in result.history} == set(toy_schedules())


def test_an_unknown_strategy_is_named_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="'annealing' is unknown: give one of random, xgboost"):
        make_strategy("annealing", PROBLEM, 0)


def test_nothing_is_proposed_when_everything_is_measured() -> None:
    everything = [Measurement(point, Status.OK, (toy_us(point),)) for point in PROBLEM.points]
    for name in STRATEGIES:
        assert make_strategy(name, PROBLEM, 0).propose(everything, 4) == Proposal(())
