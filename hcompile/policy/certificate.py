"""The certificate: what a lowered model loses at most, measured on documents that nothing else has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hcompile.policy.calibration import LEAST_TO_CERTIFY
from hcompile.policy.documents import Document, data_digest
from hcompile.policy.measure import Comparison
from hcompile.policy.metrics.base import DocumentScore, degradation
from hcompile.policy.statistics import by_origin, upper_bound

SCHEMA = 1
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Certificate:
    """A claim about one plan of one model.

    Attributes:
        metric, unit: what was measured.
        limit: the largest degradation the budget allows.
        estimate: the degradation over all documents.
        bound: its one-sided upper bound at `confidence`, documents resampled, those of one origin together.
        documents, tokens: how much was compared.
        shortest, longest: valid tokens of the rows; the claim is about inputs of these lengths.
        rows: largest batch.
        padded_rows: rows with padding on the left.
        data_sha256: of the documents.
        domain: the source they come from, which is the domain the claim speaks for.
        unit_of_data: "whole", "joined" or "piece" (see `Document`): the least independent kind among them.
        dtype, device: what both models ran in and on.
        plan_sha256: of the plan.
    """

    metric: str
    unit: str
    limit: float
    estimate: float
    bound: float
    confidence: float
    documents: int
    tokens: int
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
        if not 0 < self.confidence < 1 or self.documents < 1 or not 0 < self.shortest <= self.longest:
            raise ValueError(
                f"certificate of {self.documents} documents, confidence {self.confidence}: out of range"
            )

    @property
    def holds(self) -> bool:
        """Whether the bound is within the budget, from enough documents."""
        return self.documents >= LEAST_TO_CERTIFY and self.bound <= self.limit

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self), "holds": self.holds}

    @classmethod
    def from_json(cls, value: Any) -> Certificate:
        """Raises: ValueError or TypeError when `value` is no certificate."""
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            raise ValueError(f"a certificate is an object of schema {SCHEMA}")
        certificate = cls(**{name: field for name, field in value.items() if name not in ("schema", "holds")})
        if value.get("holds") is not certificate.holds:
            raise ValueError(
                f"the certificate says holds={value.get('holds')!r}, its figures say {certificate.holds}"
            )
        return certificate


def certify(
    comparison: Comparison,
    documents: Sequence[Document],
    *,
    limit: float,
    domain: str,
    dtype: str,
    device: str,
    plan_sha256: str,
    seed: int = 0,
) -> Certificate:
    """Compare the lowered model with the dense one on the certify split, once.

    Args:
        comparison: the two models as they will run, and the metric.
        limit: largest degradation, as the metric counts it (`Metric.limit`).

    Raises:
        UsageError: an output is not finite.
    """
    scores: list[DocumentScore] = []
    counts: list[int] = []
    rows = padded = 0
    for batch, found in comparison.measured(documents, "certify"):
        scores += found
        counts += batch.token_counts()
        rows = max(rows, len(batch.documents))
        padded += 0 if batch.valid is None else int((~batch.valid[: len(batch.documents), 0]).sum())
    units = {document.unit for document in documents}
    return Certificate(
        metric=comparison.metric.label(),
        unit=comparison.metric.unit,
        limit=limit,
        estimate=degradation(scores),
        bound=upper_bound(by_origin(documents, scores), CONFIDENCE, seed),
        confidence=CONFIDENCE,
        documents=len(documents),
        tokens=sum(score.tokens for score in scores),
        shortest=min(counts),
        longest=max(counts),
        rows=rows,
        padded_rows=padded,
        data_sha256=data_digest(documents),
        domain=domain,
        unit_of_data=next(unit for unit in ("piece", "joined", "whole") if unit in units),
        dtype=dtype,
        device=device,
        plan_sha256=plan_sha256,
    )
