"""Refitting projections: the least squares are solved, fresh documents gain by it, and plans do not mix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hcompile.passes.refit import insert_refit, refit_name
from hcompile.passes.select import select
from hcompile.patterns import Dense, Local, Pattern, Routed
from hcompile.plan import Plan
from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface
from hcompile.policy.refit import RIDGE, Refit, _Sums, documents_for, start_for
from hcompile.program import Program
from hcompile.reference import attention_reference
from tests.policy.tiny_programs import tiny_text

LENGTH = 128


def documents(count: int, seed: int, length: int = LENGTH) -> tuple[Document, ...]:
    """Return texts that repeat a few of their own bytes, so that what is far away matters."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(count):
        alphabet = torch.randint(0, 256, (12,), generator=generator)
        row = alphabet[torch.randint(0, 12, (length,), generator=generator)]
        rows.append(Document(str(i), {"input_ids": row}))
    return tuple(rows)


def refit_of(program: Program, fit: tuple[Document, ...], length: int = LENGTH) -> Refit:
    return Refit(program, fit, length, interface=Interface.of(program), kernel=attention_reference)


def plan_of(program: Program, *heads: Pattern) -> Plan:
    return Plan.of({site.name: heads for site in program.sites})


def divergence(program: Program, changed: Program, fresh: tuple[Document, ...]) -> float:
    found = []
    for document in fresh:
        ids = document.tensors["input_ids"][None]
        inputs = ids, torch.ones_like(ids)
        dense, hybrid = (each.run(*inputs)[0].log_softmax(-1) for each in (program, changed))
        found.append(float((dense.exp() * (dense - hybrid)).sum(-1).mean()))
    return sum(found) / len(found)


@pytest.mark.parametrize("plan", [(Local(8, 4),) * 4, (Local(8, 4), Dense(), Local(32, 0), Routed(300, 500))])
def test_fresh_documents_lose_less_with_it(plan: tuple[Pattern, ...]) -> None:
    program = tiny_text()
    chosen = plan_of(program, *plan)
    refit = refit_of(program, documents(16, 1))
    changed = insert_refit(select(program, chosen), refit.start, refit.weights(chosen))
    before, after = (
        divergence(program, hybrid, documents(12, 2)) for hybrid in (select(program, chosen), changed)
    )
    assert after < 0.97 * before


def test_the_second_weight_is_the_least_of_its_sum_of_squares() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=rng)
    y = x + torch.randn(300, 6, generator=rng)
    weight = torch.randn(4, 6, generator=rng, dtype=torch.float64)
    sums = _Sums()
    for part in (slice(0, 100), slice(100, 300)):
        sums.add(x[part], y[part])
    # The same as ordinary least squares on more rows: what pulls towards `weight` is data that wants it.
    pull = np.sqrt(RIDGE * float(x.double().square().sum(0).mean())) * np.eye(6)
    rows = np.concatenate([x.double().numpy(), pull])
    wanted = np.concatenate([(y.double() @ weight.T).numpy(), pull @ weight.T.numpy()])
    expected, *_ = np.linalg.lstsq(rows, wanted, rcond=None)
    np.testing.assert_allclose(sums.refit(weight).numpy(), expected.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_it_keeps_the_dtype_of_the_weight(dtype: torch.dtype) -> None:
    sums = _Sums()
    sums.add(torch.randn(30, 6, dtype=dtype), torch.randn(30, 6, dtype=dtype))
    assert sums.refit(torch.randn(4, 6, dtype=dtype)).dtype == dtype


def test_without_data_the_weight_stays() -> None:
    weight = torch.randn(4, 6)
    sums = _Sums()
    assert torch.equal(sums.refit(weight), weight)
    sums.add(torch.zeros(5, 6), torch.randn(5, 6))
    assert torch.equal(sums.refit(weight), weight)


def test_documents_that_end_before_the_start_change_nothing() -> None:
    program = tiny_text()
    refit = refit_of(program, documents(3, 1, length=10), LENGTH)
    assert refit.start > 10
    weights = refit.weights(plan_of(program, *(Local(4, 0),) * 4))
    changed = insert_refit(program, refit.start, weights)
    ids = documents(1, 2)[0].tensors["input_ids"][None]
    torch.testing.assert_close(changed.run(ids, torch.ones_like(ids)), program.run(ids, torch.ones_like(ids)))


def test_what_stays_dense_keeps_its_weight() -> None:
    program = tiny_text()
    first, second = program.sites
    refit = refit_of(program, documents(2, 1))
    assert refit.weights(Plan.dense(program.sites)) == {}
    mixed = Plan.of({first.name: (Dense(),) * 4, second.name: (Local(8, 4),) * 4})
    assert list(refit.weights(mixed)) == [refit_name(second)]


def test_a_plan_is_fitted_once_and_never_gets_the_weights_of_another() -> None:
    program = tiny_text()
    passes: list[int] = []
    refit = Refit(
        program,
        documents(3, 1),
        LENGTH,
        interface=Interface.of(program),
        kernel=attention_reference,
        progress=lambda stage, done, total: passes.append(done) if done == total else None,
    )
    one, other = (plan_of(program, *(Local(window, 4),) * 4) for window in (8, 64))
    first = refit.weights(one)
    assert refit.weights(one) is first
    refit.weights(Plan.dense(program.sites))
    assert refit.weights(one) is first and len(passes) == 1
    assert any(not torch.equal(first[name], weight) for name, weight in refit.weights(other).items())
    again = refit.weights(one)
    assert all(torch.equal(first[name], weight) for name, weight in again.items())


def test_the_key_tells_documents_and_start_apart() -> None:
    program = tiny_text()
    keys = [
        refit_of(program, documents(2, seed), length).key() for seed, length in ((1, 128), (2, 128), (1, 64))
    ]
    assert len({str(key) for key in keys}) == 3


def test_long_texts_want_fewer_documents() -> None:
    assert [documents_for(length) for length in (1, 512, 4096, 8192, 131072)] == [24, 24, 24, 12, 12]
    assert [start_for(length) for length in (1, 7, 8, 8192)] == [1, 1, 1, 1024]


def test_encoders_have_nothing_to_refit() -> None:
    program = tiny_text(causal=False)
    assert refit_of(program, documents(2, 1)).weights(plan_of(program, *(Local(8, 4),) * 4)) == {}
