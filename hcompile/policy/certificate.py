"""The certificate: what a lowered model loses at most, with one JSON form. `hcompile.policy.certify` measures it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

SCHEMA = 2

LEAST_TO_CERTIFY = 32
"""Fewer documents say too little about others to resample them."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One budget's part of a certificate.

    Attributes:
        metric, unit: what was measured.
        limit: the largest degradation the budget allows.
        estimate: the degradation over all documents.
        bound: its one-sided upper bound at `confidence`, documents resampled, those of one origin together.
        tokens: how many were compared.
    """

    metric: str
    unit: str
    limit: float
    estimate: float
    bound: float
    confidence: float
    tokens: int

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ValueError(f"claim of {self.metric}: confidence {self.confidence} is out of range")

    @property
    def holds(self) -> bool:
        """Whether the bound is within the budget."""
        return self.bound <= self.limit

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "holds": self.holds}

    @classmethod
    def from_json(cls, value: Any) -> Claim:
        """Raises: ValueError or TypeError when `value` is no claim."""
        if not isinstance(value, dict):
            raise ValueError("a claim of a certificate is an object")
        claim = cls(**{name: field for name, field in value.items() if name != "holds"})
        _check_verdict(f"claim of {claim.metric}", value.get("holds"), claim.holds)
        return claim


@dataclass(frozen=True, slots=True)
class Certificate:
    """Claims about one plan of one model, all from the same documents.

    Attributes:
        claims: one for each budget, in their order.
        documents: how many were compared.
        shortest, longest: valid tokens of the rows; the claims are about inputs of these lengths.
        rows: largest batch.
        padded_rows: rows with padding on the left.
        data_sha256: of the documents.
        domain: the source they come from, which is the domain the claims speak for.
        unit_of_data: "whole", "joined" or "piece" (see `Document`): the least independent kind among them.
        dtype, device: what both models ran in and on.
        plan_sha256: of the plan.
    """

    claims: tuple[Claim, ...]
    documents: int
    shortest: int
    longest: int
    rows: int
    padded_rows: int
    data_sha256: str
    domain: str
    unit_of_data: str
    dtype: str
    device: str
    plan_sha256: str

    def __post_init__(self) -> None:
        if not self.claims or self.documents < 1 or not 0 < self.shortest <= self.longest:
            raise ValueError(
                f"certificate of {len(self.claims)} claims, {self.documents} documents of {self.shortest} to "
                f"{self.longest} tokens: out of range"
            )
        names = [claim.metric for claim in self.claims]
        if len(set(names)) < len(names):
            raise ValueError(f"certificate of {', '.join(names)}: a metric has one claim")

    @property
    def holds(self) -> bool:
        """Whether every bound is within its budget, from enough documents."""
        return self.documents >= LEAST_TO_CERTIFY and all(claim.holds for claim in self.claims)

    def to_json(self) -> dict[str, Any]:
        claims = [claim.to_json() for claim in self.claims]
        return {"schema": SCHEMA, **asdict(self), "claims": claims, "holds": self.holds}

    @classmethod
    def from_json(cls, value: Any) -> Certificate:
        """Read this schema, or the first one, whose only claim was spread over the certificate.

        Raises:
            ValueError or TypeError: `value` is no certificate.
        """
        schema = value.get("schema") if isinstance(value, dict) else None
        if schema not in (1, SCHEMA):
            raise ValueError(f"a certificate is an object of schema 1 or {SCHEMA}")
        found = {name: field for name, field in value.items() if name not in ("schema", "holds")}
        if schema == 1:
            own = {field.name for field in fields(Claim)} & set(found)
            claims = [Claim(**{name: found.pop(name) for name in own})]
        else:
            claims = [Claim.from_json(claim) for claim in found.get("claims", ())]
        certificate = cls(**{**found, "claims": tuple(claims)})
        _check_verdict("certificate", value.get("holds"), certificate.holds)
        return certificate


def _check_verdict(what: str, said: Any, found: bool) -> None:
    if said is not found:
        raise ValueError(f"the {what} says holds={said!r}, its figures say {found}")
