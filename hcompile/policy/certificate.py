"""The certificate: what a lowered model loses at most, with one JSON form. `hcompile.policy.certify` measures it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

SCHEMA = 4
_READABLE = (1, 2, 3, SCHEMA)
"""Schema 1 had one claim, spread over the certificate; 1 and 2 say nothing of longer documents, 3 nothing of shorter
ones."""
_WITH_COVERS = 3

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
class AtLength:
    """What the same module loses on documents of another length than a certificate's (docs/adr/0015).

    Attributes:
        length: tokens of a document.
        claims: of the certificate's metrics and limits, in their order.
        documents: how many were compared.
        data_sha256, unit_of_data: of these documents, as in `Certificate`.
    """

    length: int
    claims: tuple[Claim, ...]
    documents: int
    data_sha256: str
    unit_of_data: str

    @property
    def enough(self) -> bool:
        """Whether there are as many documents as a certificate needs."""
        return self.documents >= LEAST_TO_CERTIFY

    @property
    def broken(self) -> tuple[str, ...]:
        """Metrics whose bound is above their budget."""
        return tuple(claim.metric for claim in self.claims if not claim.holds)

    @property
    def holds(self) -> bool:
        """Whether every bound is within its budget, from enough documents."""
        return self.enough and not self.broken

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "claims": [claim.to_json() for claim in self.claims], "holds": self.holds}

    @classmethod
    def from_json(cls, value: Any) -> AtLength:
        """Raises: ValueError or TypeError when `value` is nothing that was measured at a length."""
        if not isinstance(value, dict):
            raise ValueError("what was measured at a length is an object")
        found = {name: field for name, field in value.items() if name != "holds"}
        found["claims"] = tuple(Claim.from_json(claim) for claim in found.get("claims", ()))
        step = cls(**found)
        _check_verdict(f"certificate at {step.length} tokens", value.get("holds"), step.holds)
        return step


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
        beyond: what was measured on longer documents, by rising length: statements, held or not, and no part of the
            verdict.
        shorter: what was measured on the beginnings of the documents, by rising length, where windows widen with the
            length; the verdict takes in all of it.
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
    beyond: tuple[AtLength, ...] = ()
    shorter: tuple[AtLength, ...] = ()

    def __post_init__(self) -> None:
        if not self.claims or self.documents < 1 or not 0 < self.shortest <= self.longest:
            raise ValueError(
                f"certificate of {len(self.claims)} claims, {self.documents} documents of {self.shortest} to "
                f"{self.longest} tokens: out of range"
            )
        names = [claim.metric for claim in self.claims]
        if len(set(names)) < len(names):
            raise ValueError(f"certificate of {', '.join(names)}: a metric has one claim")
        lengths = [self.longest, *(step.length for step in self.beyond)]
        if lengths != sorted(set(lengths)):
            raise ValueError(f"certificate of at most {self.longest} tokens: beyond it are {lengths[1:]}")
        shorter = [*(step.length for step in self.shorter), self.longest]
        if shorter != sorted(set(shorter)):
            raise ValueError(f"certificate of at most {self.longest} tokens: shorter ones are {shorter[:-1]}")
        for step in (*self.shorter, *self.beyond):
            if [claim.metric for claim in step.claims] != names or step.documents < 1:
                raise ValueError(
                    f"certificate at {step.length} tokens: {len(step.claims)} claims of {step.documents} documents"
                )

    @property
    def holds(self) -> bool:
        """Whether every bound is within its budget, from enough documents."""
        own = self.documents >= LEAST_TO_CERTIFY and all(claim.holds for claim in self.claims)
        return own and all(step.holds for step in self.shorter)

    @property
    def broken(self) -> tuple[str, ...]:
        """Metrics whose bound is above their budget at some length that the verdict takes in."""
        claims = (*self.claims, *(claim for step in self.shorter for claim in step.claims))
        return tuple(dict.fromkeys(claim.metric for claim in claims if not claim.holds))

    @property
    def covers(self) -> int:
        """Tokens of the longest documents that it speaks for: up to the first length that does not hold; 0 for none."""
        covered = self.longest if self.holds else 0
        for step in self.beyond:
            if not covered or not step.holds:
                break
            covered = step.length
        return covered

    @property
    def covers_from(self) -> int:
        """Tokens of the shortest documents that it speaks for, where windows widen; 0 for any."""
        return self.shorter[0].length if self.shorter else 0

    @property
    def coverage(self) -> str:
        """Up to which length it speaks, as the rest of a sentence about it."""
        if not self.holds:
            return "covers no length, since it does not hold"
        extent = f"{self.covers_from} to" if self.covers_from else "at most"
        last, told = self.covers, f"covers documents of {extent} {self.covers} tokens"
        missed = next((step for step in self.beyond if step.length > self.covers), None)
        if missed is not None:
            last, broken = missed.length, " and ".join(missed.broken)
            why = (
                f"the budget of {broken} does not hold"
                if broken
                else f"{missed.documents} documents are too few to tell ({LEAST_TO_CERTIFY} are needed)"
            )
            told += f", not of {missed.length}, where {why}"
        most = self.beyond[-1].length if self.beyond else self.longest
        return f"{told}; nothing longer {'' if most == last else f'than {most} '}was measured"

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            **asdict(self),
            "claims": [claim.to_json() for claim in self.claims],
            "beyond": [step.to_json() for step in self.beyond],
            "shorter": [step.to_json() for step in self.shorter],
            "holds": self.holds,
            "covers": self.covers,
        }

    @classmethod
    def from_json(cls, value: Any) -> Certificate:
        """Read this schema or an older one.

        Raises:
            ValueError or TypeError: `value` is no certificate.
        """
        schema = value.get("schema") if isinstance(value, dict) else None
        if schema not in _READABLE:
            raise ValueError("a certificate is an object of schema 1, 2, 3 or 4")
        derived = ("schema", "holds", "covers") if schema >= _WITH_COVERS else ("schema", "holds")
        found = {name: field for name, field in value.items() if name not in derived}
        if schema == 1:
            own = {field.name for field in fields(Claim)} & set(found)
            claims = [Claim(**{name: found.pop(name) for name in own})]
        else:
            claims = [Claim.from_json(claim) for claim in found.get("claims", ())]
        steps = {name: tuple(map(AtLength.from_json, found.get(name, ()))) for name in ("beyond", "shorter")}
        certificate = cls(**{**found, "claims": tuple(claims), **steps})
        _check_verdict("certificate", value.get("holds"), certificate.holds)
        if schema >= _WITH_COVERS and value.get("covers") != certificate.covers:
            said = value.get("covers")
            raise ValueError(f"the certificate says covers={said!r}, its figures say {certificate.covers}")
        return certificate


def _check_verdict(what: str, said: Any, found: bool) -> None:
    if said is not found:
        raise ValueError(f"the {what} says holds={said!r}, its figures say {found}")
