"""Learnt features: they come nearer to dense heads than the window alone, on texts that taught nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from hcompile.far_field import far_field
from hcompile.passes.select import select
from hcompile.patterns import Dense, Linear, Local
from hcompile.patterns.linear import FEATURES
from hcompile.plan import Plan
from hcompile.policy.documents import Document
from hcompile.policy.feature_maps import learn_maps
from hcompile.policy.heads_under import maps_digest
from hcompile.policy.interface import Interface
from hcompile.policy.profile import Scores, expand
from hcompile.policy.surrogate import Likelihood
from hcompile.policy.units import Unit
from hcompile.program import Program
from hcompile.reference import attention_reference
from tests.policy.tiny_programs import HEAD, Q_HEADS, tiny_text

LENGTH = 160
WINDOW = Linear(32, 16)


def texts(count: int, seed: int) -> tuple[Document, ...]:
    """Return texts in twelve letters, each with frequencies of its own, which is what their far field tells."""
    rng = torch.Generator().manual_seed(seed)
    rows = []
    for place in range(count):
        frequencies = torch.rand(12, generator=rng) + 0.1
        letters = torch.multinomial(frequencies, LENGTH, replacement=True, generator=rng)
        rows.append(Document(str(place), {"input_ids": 97 + letters}))
    return tuple(rows)


def learnt(program: Program, seed: int = 0) -> dict[str, torch.Tensor]:
    return learn_maps(program, texts(12, 1), interface=Interface.of(program), seed=seed)


def expanded(program: Program, plan: Plan, units: Sequence[Unit], maps: dict[str, torch.Tensor]) -> Scores:
    return expand(
        program,
        plan,
        texts(8, 2),
        units,
        interface=Interface.of(program),
        surrogate=Likelihood(),
        dense=lambda inputs: program.run(*inputs),
        kernel=attention_reference,
        maps=maps,
    )


@pytest.fixture(scope="module")
def program() -> Program:
    return tiny_text()


@pytest.fixture(scope="module")
def maps(program: Program) -> dict[str, torch.Tensor]:
    return learnt(program)


def test_every_causal_site_gets_features(program: Program, maps: dict[str, torch.Tensor]) -> None:
    assert set(maps) == {site.name for site in program.sites}
    assert {tuple(value.shape) for value in maps.values()} == {(Q_HEADS, 2, FEATURES, HEAD + 1)}
    assert all(value.isfinite().all() for value in maps.values())
    encoder = tiny_text(causal=False)
    assert learn_maps(encoder, texts(2, 1), interface=Interface.of(encoder)) == {}


def test_single_heads_lose_less_than_with_the_window_alone(
    program: Program, maps: dict[str, torch.Tensor]
) -> None:
    units = [
        Unit(site, (head,), (Dense(), Local(32, 16), WINDOW))
        for site in program.sites
        for head in range(Q_HEADS)
    ]
    scores = expanded(program, Plan.dense(program.sites), units, maps)
    alone, linear = (sum(row[place] for row in scores.curvature) for place in (1, 2))
    assert linear < 0.7 * alone


def test_scores_around_a_plan_with_far_fields_have_its_gradient(
    program: Program, maps: dict[str, torch.Tensor]
) -> None:
    plan = Plan.of({site.name: [WINDOW] * Q_HEADS for site in program.sites})
    units = [Unit(site, tuple(range(Q_HEADS)), (Dense(), WINDOW)) for site in program.sites]
    scores = expanded(program, plan, units, maps)
    assert scores.base > 0
    # To stay as it is changes nothing, but for how blocks are cut; dense heads undo a loss.
    for slopes, curvatures in zip(scores.slope, scores.curvature, strict=True):
        assert abs(slopes[1]) < 1e-3 * scores.base and curvatures[1] < 1e-3 * scores.base
    assert sum(row[0] for row in scores.slope) < 0


def test_the_same_seed_learns_the_same(program: Program, maps: dict[str, torch.Tensor]) -> None:
    assert maps_digest(learnt(program)) == maps_digest(maps) is not None
    assert maps_digest(learnt(program, seed=1)) != maps_digest(maps)
    assert maps_digest({}) is None


def test_texts_too_short_for_a_window_teach_nothing_and_hurt_nothing(program: Program) -> None:
    short = tuple(Document(each.name, {"input_ids": each.tensors["input_ids"][:20]}) for each in texts(2, 3))
    maps = learn_maps(program, short, interface=Interface.of(program))
    q, k, v = torch.randn(3, 1, Q_HEADS, 64, HEAD, generator=torch.Generator().manual_seed(0))
    for value in maps.values():
        assert far_field(q, k, v, None, value, 8, 2, 0, 1.0).isfinite().all()


def test_what_was_learnt_is_no_part_of_the_model(program: Program) -> None:
    assert select(program, Plan.dense(program.sites)).tensors.keys() == program.tensors.keys()
