"""Measuring a certificate, on documents that nothing else has seen."""

from __future__ import annotations

from collections.abc import Sequence

from hcompile.policy.certificate import AtLength, Certificate, Claim
from hcompile.policy.documents import Document, data_digest
from hcompile.policy.goal import Goal
from hcompile.policy.measure import Comparison
from hcompile.policy.metrics.score import DocumentScore
from hcompile.policy.statistics import by_origin

CONFIDENCE = 0.95
"""Of each claim's bound, and of the verdict over all of them (docs/adr/0010), where there is one try."""


def certify(
    comparison: Comparison,
    documents: Sequence[Document],
    *,
    goals: Sequence[Goal],
    domain: str,
    dtype: str,
    device: str,
    plan_sha256: str,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    stage: str = "certify",
) -> Certificate:
    """Compare the lowered model with the dense one on the certify split, once for all budgets.

    Args:
        comparison: the two models as they will run, and the metrics of `goals`.
        confidence: of each claim's bound.
        stage: what progress calls this.

    Raises:
        UsageError: an output is not finite.
    """
    scores: list[list[DocumentScore]] = [[] for _ in goals]
    counts: list[int] = []
    rows = padded = 0
    for batch, by_metric in comparison.measured(documents, stage):
        for found, new in zip(scores, by_metric, strict=True):
            found += new
        counts += batch.token_counts()
        rows = max(rows, len(batch.documents))
        padded += 0 if batch.valid is None else int((~batch.valid[: len(batch.documents), 0]).sum())
    units = {document.unit for document in documents}
    return Certificate(
        claims=tuple(
            Claim(
                metric=goal.metric.label(),
                unit=goal.metric.unit,
                limit=goal.limit,
                estimate=goal.metric.statistic.estimate(found),
                bound=goal.metric.statistic.bound(by_origin(documents, found), confidence, seed),
                confidence=confidence,
                tokens=sum(score.tokens for score in found),
            )
            for goal, found in zip(goals, scores, strict=True)
        ),
        documents=len(documents),
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


def at_length(length: int, found: Certificate) -> AtLength:
    """Return a certificate of documents of `length` tokens as what another one, of other lengths, says of them."""
    return AtLength(length, found.claims, found.documents, found.data_sha256, found.unit_of_data)
