"""Global tokens: windows beside the first tokens, for causal sites only."""

from __future__ import annotations

from typing import Any

import pytest

from hcompile.patterns import Dense, GlobalTokens, Local, parse_pattern, pattern_of_label
from hcompile.plan import Plan
from hcompile.policy.units import menu
from hcompile.site import Site

CAUSAL = Site("site", 0, 1, 1, 64, 0.1, causal=True)
BOTH_WAYS = Site("site", 0, 1, 1, 64, 0.1, causal=False)


def test_json_and_label_give_the_pattern_back() -> None:
    pattern = GlobalTokens(512, 64)
    assert parse_pattern(pattern.to_json()) == pattern_of_label(pattern.label()) == pattern


@pytest.mark.parametrize("fields", [{"tokens": -1, "window": 64}, {"tokens": 4, "window": 0}, {"tokens": 4}])
def test_sizes_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="global"):
        parse_pattern({"family": "global", **fields})


def test_kernels_read_it_as_a_window_with_sinks() -> None:
    assert GlobalTokens(512, 64).params() == Local(64, 512).params()


def test_it_is_for_causal_sites() -> None:
    plan = Plan.of({"site": [GlobalTokens(512, 64)]})
    plan.check([CAUSAL])
    with pytest.raises(ValueError, match="sees both ways"):
        plan.check([BOTH_WAYS])
    assert "global" in {pattern.family for pattern in menu(CAUSAL, 8192)}
    assert menu(BOTH_WAYS, 8192, ["global"]) == (Dense(),)
