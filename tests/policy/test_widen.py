"""Widening takes the largest share that holds at every shorter length."""

from __future__ import annotations

import pytest

from hcompile.patterns import Dense, Local
from hcompile.plan import Plan
from hcompile.policy.goal import goals_of
from hcompile.policy.metrics.score import DocumentScore
from hcompile.policy.widen import SHARES, Tried, widen
from hcompile.site import Site

LENGTH, SHORTER = 4096, (1024, 2048)
SITES = tuple(
    Site(f"layer.{index}", index, 2, 1, 64, 0.125, True, window) for index, window in ((0, None), (1, 512))
)
PLAN = Plan.of({"layer.0": (Dense(), Local(1024, 16)), "layer.1": (Local(512, 0), Local(128, 0))})


def run(lost: dict[tuple[float, int], float]) -> tuple[Plan, tuple[Tried, ...]]:
    """Widen the plan where a window of a share loses so much at a length, and nothing elsewhere."""
    by_plan = {PLAN.widened(SITES, LENGTH, share): share for share in SHARES}

    def measure(plan: Plan, length: int) -> list[list[DocumentScore]]:
        each = lost.get((by_plan[plan], length), 0.0)
        return [[DocumentScore(100 * each, 100.0, 100) for _ in range(24)]]

    return widen(
        PLAN,
        SITES,
        LENGTH,
        SHORTER,
        goals_of(["kl=0.003"]),
        measure,
        reserve=0.1,
        certify_documents=48,
        seed=0,
    )


def test_where_nothing_is_lost_all_of_a_window_follows_the_length() -> None:
    plan, tried = run({})
    assert plan == PLAN.widened(SITES, LENGTH, 1.0)
    assert [(each.share, each.length, each.accepted) for each in tried] == [
        (1.0, 2048, True),
        (1.0, 1024, True),
    ]


def test_windows_of_the_model_and_dense_heads_stay() -> None:
    plan, _ = run({})
    assert plan["layer.0"][0] == Dense() and plan["layer.1"] == PLAN["layer.1"]
    assert plan.at(LENGTH) == PLAN and plan.widens and not PLAN.widens


def test_a_smaller_share_is_taken_where_a_shorter_length_does_not_hold() -> None:
    plan, tried = run({(1.0, 2048): 0.0029, (0.75, 1024): 0.01})
    assert plan == PLAN.widened(SITES, LENGTH, 0.5)
    assert [(each.share, each.length, each.accepted) for each in tried] == [
        (1.0, 2048, False),
        (0.75, 2048, True),
        (0.75, 1024, False),
        (0.5, 2048, True),
        (0.5, 1024, True),
    ]
    assert tried[0].used == pytest.approx((0.0029 / 0.0027,))


def test_a_plan_stays_rigid_where_no_share_holds() -> None:
    plan, tried = run({(share, 2048): 1.0 for share in SHARES})
    assert plan == PLAN and len(tried) == len(SHARES)
