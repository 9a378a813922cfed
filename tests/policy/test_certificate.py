"""The certificate: what it says, when it holds, and its JSON form."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hcompile.errors import UsageError
from hcompile.patterns import Local
from hcompile.plan import Plan
from hcompile.policy.certificate import AtLength, Certificate, Claim
from hcompile.policy.certify import CONFIDENCE, certify
from hcompile.policy.documents import Document, data_digest
from hcompile.policy.goal import Goal
from hcompile.policy.interface import Interface
from hcompile.policy.measure import Comparison
from hcompile.policy.metrics import metric_of
from hcompile.policy.metrics.score import DocumentScore
from hcompile.policy.statistics import upper_bound
from tests.policy.tiny_programs import run_plan, tiny_text

PROGRAM = tiny_text()
DENSE = Plan.dense(PROGRAM.sites)
FIRST, SECOND = (Path(__file__).parents[1] / "data" / f"certificate-{schema}.json" for schema in (1, 2))
"""As older versions of hcompile wrote them."""
HYBRID = Plan.of({site.name: [Local(24, 4)] * site.q_heads for site in PROGRAM.sites})


def documents(count: int, unit: str = "whole") -> list[Document]:
    ids = torch.randint(0, 256, (count, 64), generator=torch.Generator().manual_seed(3))
    return [Document(str(i), {"input_ids": row}, unit) for i, row in enumerate(ids)]


def certificate_of(rows: list[Document], limit: float, spoil: float = 0.0, **others: float) -> Certificate:
    """A certificate of kl within `limit`, and of other metrics within theirs."""
    goals = [Goal(f"{name}={most}", metric_of(name), most) for name, most in {"kl": limit, **others}.items()]
    comparison = Comparison(
        dense=lambda inputs: run_plan(PROGRAM, DENSE, tuple(inputs)),
        hybrid=lambda inputs: [out + spoil for out in run_plan(PROGRAM, HYBRID, tuple(inputs))],
        interface=Interface.of(PROGRAM),
        metrics=[goal.metric for goal in goals],
    )
    return certify(
        comparison,
        rows,
        goals=goals,
        domain="here",
        dtype="float32",
        device="a cpu",
        plan_sha256=HYBRID.digest,
        seed=0,
    )


def test_it_says_what_was_measured() -> None:
    rows = documents(40)
    found = certificate_of(rows, 10.0)
    (claim,) = found.claims
    assert 0 < claim.estimate < claim.bound < 10 and claim.holds and found.holds
    assert (claim.metric, found.documents, found.rows, found.padded_rows) == ("kl", 40, 2, 5)
    assert 60 <= found.shortest < found.longest == 64
    assert 40 * 60 <= claim.tokens < 40 * 64
    assert found.data_sha256 == data_digest(rows) and found.plan_sha256 == HYBRID.digest


def test_it_holds_at_its_bound_and_not_below() -> None:
    rows = documents(32)
    bound = certificate_of(rows, 10.0).claims[0].bound
    assert certificate_of(rows, bound).holds
    assert not certificate_of(rows, math.nextafter(bound, 0)).holds


def test_fewer_than_32_documents_certify_nothing() -> None:
    found = certificate_of(documents(31), 10.0)
    assert found.claims[0].holds and not found.holds


def test_the_least_independent_documents_are_named() -> None:
    assert certificate_of([*documents(20), *documents(20, "piece")], 10.0).unit_of_data == "piece"


def test_an_output_that_is_not_finite_stops_it() -> None:
    with pytest.raises(UsageError, match="not finite"):
        certificate_of(documents(32), 10.0, spoil=math.nan)


def test_json_gives_the_same_certificate() -> None:
    found = certificate_of(documents(32), 10.0, nll=1.0)
    assert Certificate.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_changed_verdict_is_noticed() -> None:
    value = certificate_of(documents(32), 1e-9).to_json()
    with pytest.raises(ValueError, match="certificate says holds=True, its figures say False"):
        Certificate.from_json({**value, "holds": True})
    (claim,) = value["claims"]
    with pytest.raises(ValueError, match="claim of kl says holds=True, its figures say False"):
        Certificate.from_json({**value, "claims": [{**claim, "holds": True}]})
    with pytest.raises(ValueError, match="schema"):
        Certificate.from_json({**value, "schema": 99})


def test_impossible_figures_are_refused() -> None:
    found = certificate_of(documents(32), 10.0)
    (claim,) = found.claims
    with pytest.raises(ValueError, match="out of range"):
        dataclasses.replace(claim, confidence=1.0)
    with pytest.raises(ValueError, match="out of range"):
        dataclasses.replace(found, claims=())
    with pytest.raises(ValueError, match="a metric has one claim"):
        dataclasses.replace(found, claims=(claim, claim))


def test_several_budgets_are_measured_in_one_pass_and_must_all_hold() -> None:
    rows = documents(32)
    alone = certificate_of(rows, 10.0)
    found = certificate_of(rows, 10.0, nll=1.0, cosine=1.0)
    assert [claim.metric for claim in found.claims] == ["kl", "nll", "cosine"] and found.holds
    assert found.claims[0] == alone.claims[0]
    broken = certificate_of(rows, 10.0, nll=1e-9, cosine=1.0)
    assert [claim.holds for claim in broken.claims] == [True, False, True] and not broken.holds


def test_a_certificate_of_the_first_schema_is_read_as_one_claim() -> None:
    value = json.loads(FIRST.read_bytes())
    found = Certificate.from_json(value)
    (claim,) = found.claims
    assert {**dataclasses.asdict(claim), **dataclasses.asdict(found)}.items() >= {
        (name, field) for name, field in value.items() if name not in ("schema", "holds")
    }
    assert isinstance(claim, Claim) and found.holds and found.to_json()["schema"] == 4
    assert Certificate.from_json(found.to_json()) == found
    with pytest.raises(ValueError, match="its figures say True"):
        Certificate.from_json({**value, "holds": False})


def test_a_certificate_of_the_second_schema_says_nothing_of_longer_documents() -> None:
    value = json.loads(SECOND.read_bytes())
    found = Certificate.from_json(value)
    assert found.to_json().items() >= {**value, "schema": 4, "beyond": [], "covers": 4096}.items()
    assert found.coverage == "covers documents of at most 4096 tokens; nothing longer was measured"
    with pytest.raises(TypeError, match="covers"):
        Certificate.from_json({**value, "covers": 4096})


def test_a_certificate_of_the_third_schema_says_nothing_of_shorter_documents() -> None:
    value = {**certified(beyond(8192)).to_json(), "schema": 3}
    del value["shorter"]
    found = Certificate.from_json(value)
    assert (
        found.shorter == ()
        and found.covers == 8192
        and found.to_json().items() >= {**value, "schema": 4}.items()
    )
    with pytest.raises(ValueError, match="says covers=4096, its figures say 8192"):
        Certificate.from_json({**value, "covers": 4096})


def beyond(length: int, bound: float = 0.001, documents: int = 48) -> AtLength:
    """What a certificate of kl within 0.003 says of longer documents."""
    claim = Claim("kl", "nats a token", 0.003, bound / 2, bound, 0.955, length * documents)
    return AtLength(length, (claim,), documents, "0" * 64, "whole")


def certified(*steps: AtLength, **changes: Any) -> Certificate:
    found = Certificate.from_json(json.loads(SECOND.read_bytes()))
    return dataclasses.replace(found, beyond=steps, **changes)


@pytest.mark.parametrize(
    ("steps", "covers", "told"),
    [
        ([], 4096, "documents of at most 4096 tokens; nothing longer was measured"),
        ([beyond(8192)], 8192, "documents of at most 8192 tokens; nothing longer was measured"),
        (
            [beyond(8192, 0.0031)],
            4096,
            "documents of at most 4096 tokens, not of 8192, where the budget of kl does not hold; "
            "nothing longer was measured",
        ),
        (
            [beyond(8192), beyond(16384, documents=31)],
            8192,
            "documents of at most 8192 tokens, not of 16384, where 31 documents are too few to tell (32 are needed); "
            "nothing longer was measured",
        ),
        (
            [beyond(8192, 0.0031), beyond(16384)],
            4096,
            "documents of at most 4096 tokens, not of 8192, where the budget of kl does not hold; "
            "nothing longer than 16384 was measured",
        ),
    ],
    ids=["not measured", "held", "broken", "few documents", "held behind a broken one"],
)
def test_it_says_up_to_which_length_it_speaks(steps: list[AtLength], covers: int, told: str) -> None:
    found = certified(*steps)
    assert found.holds
    assert (found.covers, found.coverage) == (covers, f"covers {told}")
    assert Certificate.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_one_that_does_not_hold_covers_nothing() -> None:
    found = certified(beyond(8192), documents=31)
    assert (found.covers, found.coverage) == (0, "covers no length, since it does not hold")


def test_changed_verdicts_of_longer_documents_are_noticed() -> None:
    value = certified(beyond(8192, 0.0031)).to_json()
    (step,) = value["beyond"]
    with pytest.raises(ValueError, match="certificate at 8192 tokens says holds=True, its figures say False"):
        Certificate.from_json({**value, "beyond": [{**step, "holds": True}]})
    with pytest.raises(ValueError, match="says covers=8192, its figures say 4096"):
        Certificate.from_json({**value, "covers": 8192})


def test_impossible_figures_of_longer_documents_are_refused() -> None:
    for steps in ([beyond(4096)], [beyond(16384), beyond(8192)], [beyond(8192), beyond(8192)]):
        with pytest.raises(ValueError, match="beyond it are"):
            certified(*steps)
    with pytest.raises(ValueError, match="at 8192 tokens: 0 claims of 48 documents"):
        certified(dataclasses.replace(beyond(8192), claims=()))
    with pytest.raises(ValueError, match="at 8192 tokens: 1 claims of 0 documents"):
        certified(beyond(8192, documents=0))


def test_shorter_documents_are_part_of_the_verdict() -> None:
    held = certified(shorter=(beyond(1024), beyond(2048)))
    assert held.holds and held.covers == 4096 and not held.broken
    assert Certificate.from_json(json.loads(json.dumps(held.to_json()))) == held
    broken = certified(beyond(8192), shorter=(beyond(1024, 0.0031), beyond(2048)))
    assert (broken.holds, broken.covers, broken.broken) == (False, 0, ("kl",))
    assert held.coverage == "covers documents of 1024 to 4096 tokens; nothing longer was measured"
    assert (held.covers_from, certified().covers_from) == (1024, 0)
    few = certified(shorter=(beyond(1024, documents=31),))
    assert not few.holds
    with pytest.raises(ValueError, match="shorter ones are"):
        certified(shorter=(beyond(4096),))


def test_the_verdict_over_several_budgets_is_as_sure_as_each_bound() -> None:
    """docs/adr/0010: three budgets of one loss, one of them broken in truth by a hair."""
    rng = np.random.default_rng(7)
    runs, wrong = 400, 0
    for seed in range(runs):
        common = rng.normal(0, 0.4, 48)
        losses = np.exp(common + rng.normal(0, 0.3, (3, 48)))
        bounds = [
            upper_bound([DocumentScore(float(loss), 1.0, 1) for loss in row], CONFIDENCE, seed, 500)
            for row in losses
        ]
        truth = math.exp(0.125)
        wrong += bounds[0] < truth and bounds[1] <= 1.3 * truth and bounds[2] <= 1.3 * truth
    # 5 % at most; three standard errors of 400 runs are 3.3 %.
    assert wrong / runs <= 0.083
