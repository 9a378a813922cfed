"""What a plan may be made of, and what it is to have little of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hcompile.errors import UsageError
from hcompile.patterns import Dense, Linear, Local, Pattern, Routed, default_families
from hcompile.pipeline import choosing
from hcompile.pipeline.choosing import check_refit, usable_families, wants_maps
from hcompile.pipeline.job import Job
from hcompile.pipeline.request import OptimizeRequest
from hcompile.plan import Plan
from hcompile.policy.memory import Forgetful
from hcompile.progress import quiet
from hcompile.site import Site
from tests.policy.tiny_programs import tiny_text

SITE = Site("site", 0, 4, 2, 64, 0.125, causal=True)
PROGRAM = cast(Any, SimpleNamespace(sites=(SITE,)))


def test_every_family_can_be_chosen_where_the_target_has_kernels_for_it() -> None:
    assert usable_families(OptimizeRequest("model"), PROGRAM, "float32") == list(default_families())
    wanted = OptimizeRequest("model", families=("routed",))
    assert usable_families(wanted, PROGRAM, "float32") == ["routed"]


def test_routed_heads_are_left_out_where_the_target_has_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    blind = SimpleNamespace(routes=lambda dtype, head_dim: False)
    monkeypatch.setattr(choosing, "get_backend", lambda name: blind)
    found = usable_families(OptimizeRequest("model"), PROGRAM, "float32")
    assert found == [family for family in default_families() if family != "routed"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"families": ("strided",)}, "families .'strided'. are not among"),
        ({"cost": "energy"}, "cost 'energy'"),
        ({"cost_at": 0}, "a cost at 0 tokens"),
        ({"cost_at": 4096, "plan": Path("plan.json")}, "--cost-at is for plans that are chosen"),
    ],
)
def test_a_request_for_what_is_not_there_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        OptimizeRequest("model", **fields)


def test_heads_are_priced_by_their_time_or_by_their_pairs() -> None:
    times = {Dense(): 100.0, Local(64, 0): 40.0, Routed(900, 100): 300.0}
    kernels = cast(Any, SimpleNamespace(head_us=lambda site, pattern, length: times[pattern]))
    by_time, by_pairs = (choosing._head_us(kernels, 4096, cost) for cost in ("time", "pairs"))
    assert [by_time(SITE, pattern) for pattern in times] == [100.0, 40.0, 300.0]
    dense, local, routed = (by_pairs(SITE, pattern) for pattern in times)
    assert dense == 100.0 and local == pytest.approx(3.1, abs=0.1) and routed == pytest.approx(16.2, abs=0.1)


@pytest.mark.parametrize(("asked", "length"), [(None, 8192), (16384, 16384)])
def test_the_cost_is_that_at_the_length_that_was_asked_for(
    asked: int | None, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the plan is chosen, measured and certified at the planned one."""
    lengths = []
    program = tiny_text()

    def priced(site: Site, pattern: Pattern, length: int) -> float:
        lengths.append(length)
        return 1.0

    kernels = cast(Any, SimpleNamespace(any_table=dict, head_us=priced))

    def choose_plan(models: Any, units: Any, splits: Any, goals: Any, head_us: Any, **named: Any) -> Any:
        head_us(SITE, Dense())
        return SimpleNamespace(plan=Plan.dense(program.sites), holds=True, to_json=dict)

    monkeypatch.setattr(choosing, "choose_plan", choose_plan)
    job = Job(
        request=OptimizeRequest("model", cost_at=asked),
        model=cast(Any, SimpleNamespace(program=program, source="model")),
        plan=None,
        goals=(),
        interface=cast(Any, None),
        graphs_sha256="",
        lengths=(4096, 8192),
        splits=cast(Any, SimpleNamespace()),
        held_out=True,
        longer={},
        warnings=(),
        dtype="float32",
        device=cast(Any, None),
    )
    for made in ("PlanRunner", "text_encoder"):
        monkeypatch.setattr(choosing, made, lambda *_: len)  # Called by nothing here.
    monkeypatch.setattr(choosing, "any_kernel", lambda *_: None)
    choosing.choose(job, 1.0, kernels, Forgetful(), quiet)
    assert lengths == [length]


def test_a_refit_wants_documents_and_linear_layers_behind_causal_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = OptimizeRequest("model", refit=True)
    some, none = (cast(Any, SimpleNamespace(splits=splits)) for splits in ("documents", None))
    program = tiny_text()
    assert check_refit(wanted, program, some) == ()
    with pytest.raises(UsageError, match="model: --refit fits weights to documents: pass --calib"):
        check_refit(wanted, program, none)
    assert check_refit(OptimizeRequest("model"), program, none) == ()
    encoder = tiny_text(causal=False)
    with pytest.raises(UsageError, match=f"--refit wants causal .* {encoder.sites[0].name} is not like that"):
        check_refit(wanted, encoder, some)
    monkeypatch.setattr(choosing, "output_projections", lambda program: {program.sites[0].name: None})
    (warning,) = check_refit(wanted, program, some)
    assert "leaves 1 of 2 attentions as they are" in warning and program.sites[1].name in warning


@pytest.mark.parametrize(
    ("families", "plan", "wanted"),
    [
        (None, None, False),
        (("local",), None, False),
        (("local", "linear"), None, True),
        (("linear",), Local(8), False),
        (None, Linear(8), True),
    ],
)
def test_features_are_learnt_for_plans_that_have_or_may_get_some(
    families: tuple[str, ...] | None, plan: Pattern | None, wanted: bool
) -> None:
    program = tiny_text()
    given = None if plan is None else Plan.of({site.name: [plan] * site.q_heads for site in program.sites})
    some, none = (cast(Any, SimpleNamespace(splits=splits)) for splits in ("documents", None))
    request = OptimizeRequest("model", families=families)
    assert wants_maps(request, given, program, some) is wanted
    if wanted:
        with pytest.raises(UsageError, match="model: the plan has linear heads, whose features are learnt"):
            wants_maps(request, given, program, none)
