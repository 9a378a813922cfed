"""A share of trials that went wrong, and an upper bound on it that stays honest where none or few did.

Where nothing went wrong, resampling finds no doubt. A binomial bound does (C. J. Clopper and E. S. Pearson, The use of
confidence or fiducial limits illustrated in the case of the binomial, Biometrika 26, 1934, pp. 404-413): after 500
trials without a fault, 0.6 %. It takes trials for independent, which those of one document need not be, and that is
what resampling documents sees as soon as there are faults to see. So: the larger one of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hcompile.errors import UsageError
from hcompile.policy.metrics.score import DocumentScore, degradation
from hcompile.policy.statistics import upper_bound


@dataclass(frozen=True, slots=True)
class Share:
    """Of trials that went wrong: `total` of a document's `weight`. `trials` says what they are, for messages."""

    trials: str

    def estimate(self, scores: Sequence[DocumentScore]) -> float:
        """Raises: UsageError when there was no trial."""
        return degradation(self._tried(scores))

    def bound(
        self, scores: Sequence[DocumentScore], confidence: float, seed: int, resamples: int = 10_000
    ) -> float:
        """Raises: UsageError when there was no trial."""
        from scipy.stats import beta

        tried = self._tried(scores)
        faults, count = sum(score.total for score in tried), sum(score.weight for score in tried)
        binomial = 1.0 if faults >= count else float(beta.ppf(confidence, faults + 1, count - faults))
        if len(tried) < 2:
            return binomial
        return max(binomial, upper_bound(tried, confidence, seed, resamples))

    def _tried(self, scores: Sequence[DocumentScore]) -> list[DocumentScore]:
        tried = [score for score in scores if score.weight > 0]
        if not tried:
            raise UsageError(f"there are no {self.trials} in {len(scores)} documents: leave this budget out")
        return tried
