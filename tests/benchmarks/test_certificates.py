"""What the benchmark of certificates counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from benchmarks.certificates import Held, summary
from hcompile.policy.certificate import Certificate

KL = Certificate.from_json(
    json.loads((Path(__file__).parents[1] / "data" / "certificate-1.json").read_bytes())
)
(CLAIM,) = KL.claims


def held(*fresh: float) -> Held:
    claims = tuple(replace(CLAIM, metric=str(place)) for place in range(len(fresh)))
    return Held(0, ("kl=0.003",), 1, 0.5, replace(KL, claims=claims), fresh)


def test_a_certificate_holds_by_its_worst_claim() -> None:
    assert CLAIM.bound < CLAIM.limit
    between = (CLAIM.bound + CLAIM.limit) / 2
    found = [held(CLAIM.bound), held(0.0, between), held(1.1 * CLAIM.limit, 0.0)]
    told = summary(found)
    assert (told["certificates"], told["within_budget"], told["within_bound"]) == (3, 2, 1)
    assert abs(told["largest_ratio_to_budget"] - 1.1) < 1e-9
