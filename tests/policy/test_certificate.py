"""The certificate: what it says, when it holds, and its JSON form."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from hcompile.errors import UsageError
from hcompile.patterns import Local
from hcompile.plan import Plan
from hcompile.policy.certificate import Certificate, certify
from hcompile.policy.documents import Document, data_digest
from hcompile.policy.interface import Interface
from hcompile.policy.measure import Comparison
from hcompile.policy.metrics import metric_of
from tests.policy.tiny_programs import run_plan, tiny_text

PROGRAM = tiny_text()
DENSE = Plan.dense(PROGRAM.sites)
HYBRID = Plan.of({site.name: [Local(24, 4)] * site.q_heads for site in PROGRAM.sites})


def documents(count: int, unit: str = "whole") -> list[Document]:
    ids = torch.randint(0, 256, (count, 64), generator=torch.Generator().manual_seed(3))
    return [Document(str(i), {"input_ids": row}, unit) for i, row in enumerate(ids)]


def certificate_of(rows: list[Document], limit: float, spoil: float = 0.0) -> Certificate:
    comparison = Comparison(
        dense=lambda inputs: run_plan(PROGRAM, DENSE, tuple(inputs)),
        hybrid=lambda inputs: [out + spoil for out in run_plan(PROGRAM, HYBRID, tuple(inputs))],
        interface=Interface.of(PROGRAM),
        metric=metric_of("kl"),
    )
    return certify(
        comparison,
        rows,
        limit=limit,
        domain="here",
        dtype="float32",
        device="a cpu",
        plan_sha256=HYBRID.digest,
        seed=0,
    )


def test_it_says_what_was_measured() -> None:
    rows = documents(40)
    found = certificate_of(rows, 10.0)
    assert 0 < found.estimate < found.bound < 10 and found.holds
    assert (found.metric, found.documents, found.rows, found.padded_rows) == ("kl", 40, 2, 5)
    assert 60 <= found.shortest < found.longest == 64
    assert 40 * 60 <= found.tokens < 40 * 64
    assert found.data_sha256 == data_digest(rows) and found.plan_sha256 == HYBRID.digest


def test_it_holds_at_its_bound_and_not_below() -> None:
    rows = documents(32)
    bound = certificate_of(rows, 10.0).bound
    assert certificate_of(rows, bound).holds
    assert not certificate_of(rows, math.nextafter(bound, 0)).holds


def test_fewer_than_32_documents_certify_nothing() -> None:
    assert not certificate_of(documents(31), 10.0).holds


def test_the_least_independent_documents_are_named() -> None:
    assert certificate_of([*documents(20), *documents(20, "piece")], 10.0).unit_of_data == "piece"


def test_an_output_that_is_not_finite_stops_it() -> None:
    with pytest.raises(UsageError, match="not finite"):
        certificate_of(documents(32), 10.0, spoil=math.nan)


def test_json_gives_the_same_certificate() -> None:
    found = certificate_of(documents(32), 10.0)
    assert Certificate.from_json(found.to_json()) == found


def test_a_changed_verdict_is_noticed() -> None:
    value = certificate_of(documents(32), 1e-9).to_json()
    with pytest.raises(ValueError, match="its figures say False"):
        Certificate.from_json({**value, "holds": True})
    with pytest.raises(ValueError, match="schema"):
        Certificate.from_json({**value, "schema": 99})


def test_impossible_figures_are_refused() -> None:
    found = certificate_of(documents(32), 10.0)
    with pytest.raises(ValueError, match="out of range"):
        dataclasses.replace(found, confidence=1.0)
