"""A percentile over tokens, and an upper bound on it by resampling documents.

The bound turns the question round (R. S. Woodruff, Confidence intervals for medians and other position measures, JASA
47, 1952, pp. 635-646): the 99th percentile is below a size where the share of tokens above that size is below 1 %, and
that share is a ratio of sums over documents, which `statistics.upper_bound` bounds. Tokens of one document may depend
on each other as they like: documents are what is resampled. The bound is the least size of the ladder that passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hcompile.policy.metrics.score import DocumentScore, merged, size_of
from hcompile.policy.statistics import upper_bound


@dataclass(frozen=True, slots=True)
class Quantile:
    """Of the tokens of all documents together. `beyond` is the share of them that may lie above it, such as 0.01."""

    beyond: float

    def __post_init__(self) -> None:
        if not 0 < self.beyond <= 0.5:
            raise ValueError(f"quantile with a share of {self.beyond} beyond it: wanted one in (0, 0.5]")

    def estimate(self, scores: Sequence[DocumentScore]) -> float:
        """Return the percentile, rounded up to a step."""
        left = self.beyond * sum(score.tokens for score in scores)
        found = 0
        for step, count in reversed(merged(scores).steps):
            if count > left:
                found = step
                break
            left -= count
        return size_of(found)

    def bound(
        self, scores: Sequence[DocumentScore], confidence: float, seed: int, resamples: int = 10_000
    ) -> float:
        """Return the one-sided upper confidence bound of the percentile over the population of documents."""
        ladder = [step for step, _ in merged(scores).steps]
        low, high = 0, len(ladder) - 1  # nothing lies above the last one, so that it passes
        while low < high:
            middle = (low + high) // 2
            above = [_above(score, ladder[middle]) for score in scores]
            if upper_bound(above, confidence, seed, resamples) <= self.beyond:
                high = middle
            else:
                low = middle + 1
        return size_of(ladder[high])


def _above(score: DocumentScore, step: int) -> DocumentScore:
    count = sum(count for found, count in score.steps if found > step)
    return DocumentScore(float(count), float(score.tokens), score.tokens)
