"""Taylor scores against measured degradations of single heads, and of plans."""

from __future__ import annotations

import pytest
import torch

from hcompile.operator import Kernel
from hcompile.patterns import Local
from hcompile.plan import Plan
from hcompile.policy.batches import make_batch
from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface
from hcompile.policy.metrics import metric_of
from hcompile.policy.metrics.score import degradation
from hcompile.policy.profile import Scores, expand
from hcompile.policy.surrogate import Direction, Likelihood, Surrogate
from hcompile.policy.units import Unit, plan_of, units_of
from hcompile.program import Program
from hcompile.reference import attention_reference
from tests.policy.tiny_programs import run_plan, tiny_text

LENGTH = 160
KERNEL: Kernel = attention_reference


def documents(count: int = 4, vocabulary: int = 256) -> list[Document]:
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, vocabulary, (count, LENGTH), generator=generator)
    return [Document(str(i), {"input_ids": row}) for i, row in enumerate(ids)]


def expansion(
    program: Program, plan: Plan, units: tuple[Unit, ...], surrogate: Surrogate, probes: int = 4
) -> Scores:
    return expand(
        program,
        plan,
        documents() * probes,
        units,
        interface=Interface.of(program),
        surrogate=surrogate,
        dense=lambda inputs: run_plan(program, Plan.dense(program.sites), tuple(inputs)),
        kernel=KERNEL,
    )


def measured(program: Program, plan: Plan, metric: str) -> float:
    interface = Interface.of(program)
    scores = []
    for document in documents():
        batch = make_batch([document], interface)
        dense = run_plan(program, Plan.dense(program.sites), batch.inputs)
        scores += metric_of(metric).score(dense, run_plan(program, plan, batch.inputs), batch, interface)
    return degradation(scores)


@pytest.mark.parametrize(
    ("logits", "metric", "surrogate"), [(True, "kl", Likelihood()), (False, "cosine", Direction())]
)
def test_scores_around_the_dense_plan_are_single_head_degradations(
    logits: bool, metric: str, surrogate: Surrogate
) -> None:
    program = tiny_text(logits=logits)
    units = units_of(program.sites, LENGTH)
    scores = expansion(program, Plan.dense(program.sites), units, surrogate)
    assert scores.base == 0 and all(value == 0 for row in scores.slope for value in row)
    assert all(row[0] < 1e-9 for row in scores.curvature)
    for option in map(units[0].options.index, (Local(64, 16), Local(16, 4))):
        for unit in (0, 6):
            choice = [option if index == unit else 0 for index in range(len(units))]
            truth = measured(program, plan_of(units, choice), metric)
            assert truth / 2 < scores.curvature[unit][option] < truth * 2


def test_scores_around_a_plan_tell_what_its_neighbours_lose() -> None:
    program = tiny_text()
    units = units_of(program.sites, LENGTH)
    choice = [1] * len(units)
    scores = expansion(program, plan_of(units, choice), units, Likelihood())
    base = measured(program, plan_of(units, choice), "kl")
    assert scores.base == pytest.approx(base, rel=1e-3)
    for unit in (1, 4):
        neighbour = list(choice)
        neighbour[unit] = 0
        change = measured(program, plan_of(units, neighbour), "kl") - base
        predicted = scores.slope[unit][0] + scores.curvature[unit][0]
        assert change < 0 and predicted == pytest.approx(change, rel=0.5)


def test_heads_of_a_unit_are_scored_together() -> None:
    program = tiny_text()
    heads, layers = units_of(program.sites, LENGTH), units_of(program.sites, LENGTH, granularity="layer")
    dense = Plan.dense(program.sites)
    whole = expansion(program, dense, layers, Likelihood())
    choice = [1, 0]
    truth = measured(program, plan_of(layers, choice), "kl")
    assert whole.curvature[0][1] == pytest.approx(truth, rel=0.5)
    assert len(whole.curvature) == 2 and len(heads) == 8


def test_equal_seeds_give_equal_scores_that_survive_json() -> None:
    program = tiny_text()
    units = units_of(program.sites, LENGTH)
    first, again = (expansion(program, Plan.dense(program.sites), units, Likelihood(), 1) for _ in range(2))
    assert first == again == Scores.from_json(first.to_json())


def test_weights_get_no_gradient() -> None:
    program = tiny_text()
    units = units_of(program.sites, LENGTH)
    expansion(program, Plan.dense(program.sites), units, Likelihood(), 1)
    assert all(tensor.grad is None for tensor in (*program.tensors.values(), *program.graph.buffers()))
