"""The whole policy on small programs, with the reference as their kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from hcompile.errors import UsageError
from hcompile.patterns import Pattern, Routed
from hcompile.plan import Plan
from hcompile.policy.calibration import Splits
from hcompile.policy.documents import Document
from hcompile.policy.goal import Goal
from hcompile.policy.interface import Interface
from hcompile.policy.metrics import metric_of
from hcompile.policy.policy import Models, PolicyResult, choose_plan
from hcompile.policy.repair import Effort
from hcompile.policy.units import units_of
from hcompile.program import Program
from hcompile.reference import attention_reference
from hcompile.site import Site
from hcompile.values import canonical_json
from tests.policy.tiny_programs import run_plan, tiny_text

LENGTH = 160


class Kept:
    """A memory in a dictionary."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def recall(self, kind: str, key: Mapping[str, Any]) -> Any | None:
        return self.values.get(kind + canonical_json(key))

    def keep(self, kind: str, key: Mapping[str, Any], value: Any) -> None:
        canonical_json(value)
        self.values[kind + canonical_json(key)] = value


class Counted:
    """The program under any plan, counting its calls."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.calls = 0

    def __call__(self, plan: Plan, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        self.calls += 1
        return run_plan(self.program, plan, tuple(inputs))

    def models(self) -> Models:
        dense = Plan.dense(self.program.sites)
        interface = Interface.of(self.program)
        return Models(self.program, lambda inputs: self(dense, inputs), self, attention_reference, interface)


def splits() -> Splits:
    ids = torch.randint(0, 256, (48, LENGTH), generator=torch.Generator().manual_seed(5))
    rows = tuple(Document(str(i), {"input_ids": row}) for i, row in enumerate(ids))
    return Splits(rows[:4], rows[4:16], rows[16:], "here", "here")


def pairs_us(site: Site, pattern: Pattern) -> float:
    return float(pattern.visited_pairs(LENGTH, LENGTH, causal=site.causal))


def goals(**limits: float) -> list[Goal]:
    return [Goal(f"{name}={limit}", metric_of(name), limit) for name, limit in limits.items()]


def choose(
    runner: Counted,
    limit: float,
    metric: str = "kl",
    memory: Kept | None = None,
    others: Mapping[str, float] | None = None,
    **settings: Any,
) -> PolicyResult:
    return choose_plan(
        runner.models(),
        units_of(runner.program.sites, LENGTH, **settings),
        splits(),
        goals(**{metric: limit}, **(others or {})),
        pairs_us,
        memory=memory,
        effort=Effort(trials=5),
    )


@pytest.mark.parametrize(
    ("settings", "metric", "limit"),
    [
        ({}, "kl", 0.05),
        pytest.param({"granularity": "group"}, "kl", 0.05, marks=pytest.mark.slow),
        ({"keep_layers": (0,)}, "nll", 0.01),
        ({}, "top1", 0.2),
    ],
)
def test_a_chosen_plan_holds_and_is_faster(settings: dict[str, Any], metric: str, limit: float) -> None:
    program = tiny_text()
    result = choose(Counted(program), limit, metric, **settings)
    assert result.holds and result.latency_us < result.dense_latency_us
    result.plan.check(program.sites)
    best = next(trial for trial in result.trials if trial.plan == result.plan)
    assert best.accepted and best.measured[0] <= limit
    for site in program.sites:
        heads = result.plan[site.name]
        assert settings.get("granularity") != "group" or (heads[0] == heads[1] and heads[2] == heads[3])
        assert site.layer not in settings.get("keep_layers", ()) or set(heads) == set(
            Plan.dense([site])[site.name]
        )


def test_models_without_logits_are_planned_by_cosine() -> None:
    result = choose(Counted(tiny_text(logits=False, causal=False)), 0.01, "cosine")
    assert result.holds and all(trial.measured[0] < 0.1 for trial in result.trials)


def test_a_larger_budget_gives_a_faster_plan() -> None:
    runner, memory = Counted(tiny_text()), Kept()
    strict, loose = (choose(runner, limit, memory=memory) for limit in (0.01, 0.2))
    assert loose.latency_us < strict.latency_us


def test_a_second_run_computes_nothing() -> None:
    runner, memory = Counted(tiny_text()), Kept()
    first = choose(runner, 0.05, memory=memory)
    calls = runner.calls
    assert choose(runner, 0.05, memory=memory) == first
    assert runner.calls == calls > 0


def test_a_budget_of_zero_leaves_the_model_as_it_is_at_no_cost() -> None:
    runner = Counted(tiny_text())
    result = choose(runner, 0.0)
    assert not result.holds and result.plan == Plan.dense(runner.program.sites) and runner.calls == 0
    assert "no degradation" in result.why_dense


def test_a_budget_out_of_reach_gives_the_dense_plan() -> None:
    result = choose(Counted(tiny_text()), 1e-9)
    assert not result.holds and result.latency_us == result.dense_latency_us
    assert all(not trial.accepted for trial in result.trials)
    assert result.why_dense == "no plan is predicted to hold kl=1e-09"


def test_several_budgets_all_hold_and_the_models_run_once_for_all() -> None:
    runner, memory = Counted(tiny_text()), Kept()
    alone = choose(runner, 0.05, memory=memory)
    calls = runner.calls
    others = {"nll": 0.01, "cosine": 0.5}
    result = choose(runner, 0.05, memory=memory, others=others)
    assert result.holds and result.limits == (0.05, 0.01, 0.5)
    best = next(trial for trial in result.trials if trial.plan == result.plan)
    assert all(found <= limit for found, limit in zip(best.measured, result.limits, strict=True))
    assert result.latency_us >= alone.latency_us
    repeated = Counted(tiny_text())
    assert choose(repeated, 0.05, others=others) == result
    # A plan that was measured for kl alone is run again for the other two, and each plan once for all three.
    assert runner.calls - calls <= repeated.calls
    assert PolicyResult.from_json(result.to_json()) == result


def test_a_budget_on_the_tail_is_held() -> None:
    result = choose(Counted(tiny_text()), 0.3, "kl.p99", others={"kl": 0.05})
    assert result.holds
    best = next(trial for trial in result.trials if trial.plan == result.plan)
    assert best.measured[1] < best.measured[0] <= 0.3 and best.tightest <= 1


def test_a_metric_makes_its_own_documents_with_what_the_model_reads_text_by() -> None:
    models = dataclasses.replace(Counted(tiny_text()).models(), encode=list)
    units = units_of(models.program.sites, LENGTH)
    with pytest.raises(UsageError, match=f"documents of {LENGTH} tokens have no room for planted pairs"):
        choose_plan(models, units, splits(), goals(recall=0.02), pairs_us)


def test_the_budget_out_of_reach_is_named() -> None:
    result = choose(Counted(tiny_text()), 0.2, others={"nll": 1e-9, "cosine": 0.5})
    assert not result.holds and "likely to hold nll=1e-09" in result.why_dense
    assert "kl" not in result.why_dense and "cosine" not in result.why_dense


def test_a_second_budget_of_zero_is_named_before_anything_runs() -> None:
    runner = Counted(tiny_text())
    result = choose(runner, 0.05, others={"cosine": 0.0})
    assert result.why_dense == "cosine=0.0 allows no degradation at all" and runner.calls == 0


def test_documents_too_short_for_any_window_give_the_dense_plan() -> None:
    runner = Counted(tiny_text())
    rows = tuple(Document(str(i), {"input_ids": torch.arange(16) + i}) for i in range(2))
    result = choose_plan(
        runner.models(),
        units_of(runner.program.sites, LENGTH),
        Splits(rows, rows, rows, "here", "here"),
        goals(kl=0.05),
        pairs_us,
    )
    assert not result.holds and "16 tokens are too short" in result.why_dense and runner.calls == 0


def test_one_sample_document_is_enough_for_a_plan() -> None:
    rows = splits().repair[:1]
    runner = Counted(tiny_text())
    result = choose_plan(
        runner.models(),
        units_of(runner.program.sites, LENGTH),
        Splits(rows, rows, rows, "here", "here"),
        goals(kl=0.05),
        pairs_us,
        effort=Effort(trials=3),
    )
    assert result.holds


def test_a_metric_that_does_not_fit_is_refused_before_anything_runs() -> None:
    runner = Counted(tiny_text(logits=False))
    with pytest.raises(UsageError, match="needs logits"):
        choose(runner, 0.003)
    assert runner.calls == 0


def test_logits_that_are_not_finite_are_refused() -> None:
    runner = Counted(tiny_text())
    models = runner.models()
    broken = Models(
        models.program,
        models.dense,
        lambda plan, inputs: [x * float("nan") for x in runner(plan, inputs)],
        models.kernel,
        models.interface,
    )
    with pytest.raises(UsageError, match="hybrid model's output is not finite"):
        choose_plan(broken, units_of(runner.program.sites, LENGTH), splits(), goals(kl=0.05), pairs_us)


def test_results_survive_json() -> None:
    result = choose(Counted(tiny_text()), 0.05)
    assert PolicyResult.from_json(result.to_json()) == result


def test_routed_heads_are_worth_what_the_profile_measured_them_to_read() -> None:
    """Before it, they count as reading everything."""
    length = 320
    runner = Counted(tiny_text())
    ids = torch.randint(0, 256, (10, length), generator=torch.Generator().manual_seed(5))
    rows = tuple(Document(str(i), {"input_ids": row}) for i, row in enumerate(ids))

    def at_length(site: Site, pattern: Pattern) -> float:
        return float(pattern.visited_pairs(length, length, causal=site.causal))

    result = choose_plan(
        runner.models(),
        units_of(runner.program.sites, length, chosen=["routed"]),
        Splits(rows[:2], rows[2:6], rows[6:], "here", "here"),
        goals(kl=5.0),
        at_length,
        effort=Effort(trials=1),
    )
    assert result.holds and result.latency_us < result.dense_latency_us
    routed = [pattern for _, heads in result.plan.choices for pattern in heads if isinstance(pattern, Routed)]
    assert routed and all(pattern.kept is not None for pattern in routed)
