"""Units, their menus, and settings that contradict each other."""

from __future__ import annotations

import pytest

from hcompile.errors import UsageError
from hcompile.patterns import Dense, Local, Routed, default_families, families
from hcompile.plan import Plan
from hcompile.policy.units import measured, menu, plan_of, units_of
from hcompile.site import Site

SITES = tuple(Site(f"layer.{i}", i, 6, 2, 64, 0.125, causal=True) for i in range(3))
SLIDING = Site("sliding", 0, 6, 2, 64, 0.125, causal=True, window=512)


@pytest.mark.parametrize(
    ("granularity", "count", "size"), [("head", 18, 1), ("group", 6, 3), ("layer", 3, 6)]
)
def test_granularity_decides_who_shares_a_pattern(granularity: str, count: int, size: int) -> None:
    units = units_of(SITES, 8192, granularity=granularity)
    assert len(units) == count and {len(unit.heads) for unit in units} == {size}
    plan = plan_of(units, [index % 3 for index in range(count)])
    plan.check(SITES)
    assert plan.choices[0][1][0] == Dense()


def test_a_group_is_the_readers_of_one_kv_head() -> None:
    units = units_of(SITES[:1], 8192, granularity="group")
    assert [unit.heads for unit in units] == [(0, 1, 2), (3, 4, 5)]


def test_option_zero_everywhere_is_the_model_itself() -> None:
    sites = (*SITES, SLIDING)
    units = units_of(sites, 8192)
    assert plan_of(units, [0] * len(units)) == Plan.dense(sites)


def test_a_menu_holds_a_dozen_patterns_that_remove_something() -> None:
    assert len(menu(SITES[0], 8192)) > 12
    assert menu(SITES[0], 256, ["local"]) == (
        Dense(),
        *(Local(w, 16) for w in (64, 128, 192)),
        *(Local(w, 64) for w in (64, 128)),
        *(Local(w, 4) for w in (16, 32, 64, 128)),
    )


def test_a_menu_holds_the_families_that_were_chosen() -> None:
    assert {pattern.family for pattern in menu(SITES[0], 8192)} == {"dense", *default_families()}
    assert {pattern.family for pattern in menu(SITES[0], 8192, ["routed"])} == {"dense", "routed"}
    assert {pattern.family for pattern in menu(SITES[0], 8192, families())} == {"dense", *families()}
    assert {pattern.family for pattern in menu(SLIDING, 8192)} == {"local"}


def test_measured_units_carry_what_their_options_read() -> None:
    (unit,) = units_of(SITES[:1], 8192, granularity="layer", chosen=["routed"])
    (known,) = measured([unit], [[1.0, *(0.1234 for _ in unit.options[1:])]])
    assert known.options == (Dense(), *(Routed(option.params()[1], 124) for option in unit.options[1:]))


def test_a_sliding_window_is_only_narrowed() -> None:
    plan = plan_of(units_of((SLIDING,), 8192), [len(menu(SLIDING, 8192)) - 1] * 6)
    plan.check((SLIDING,))
    assert menu(SLIDING, 8192) == (Local(512, 0), *(Local(w, 0) for w in (16, 32, 64, 128, 192, 256, 384)))


def test_kept_layers_have_no_choice() -> None:
    units = units_of(SITES, 8192, keep_layers={1})
    assert {unit.site.layer for unit in units if len(unit.options) == 1} == {1}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"granularity": "token"}, "granularity 'token'"),
        ({"keep_layers": {7}}, r"keep-layers \[7\]"),
        ({"keep_layers": {0, 1, 2}}, "keeps every layer"),
        ({"length": 16}, "no head can see less at 16 tokens"),
    ],
)
def test_settings_that_leave_nothing_are_refused(settings: dict[str, object], complaint: str) -> None:
    arguments = {"length": 8192, **settings}
    with pytest.raises(UsageError, match=complaint):
        units_of(SITES, **arguments)  # type: ignore[arg-type]
