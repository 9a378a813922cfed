"""A test for drift that may be looked at after every sample, for as long as a service runs.

A bound that is computed again and again is exceeded by chance some day. Here the evidence against "the degradation is
within the limit" is a nonnegative supermartingale, so that by Ville's inequality the chance that it ever reaches
1 / `ERROR` is at most `ERROR`, however often one looks (Howard, Ramdas, McAuliffe & Sekhon 2020, Probability Surveys
17, 257-317):

- The excess of a sample is X = total - limit * weight: the certified degradation, a ratio of sums, is within its limit
  exactly if E[X] <= 0. With z = X / s and x = bet * z, a sample multiplies the evidence by
  exp(x - x^2 / 6 - bet^2 / 3). Since exp(x - x^2 / 6) <= 1 + x + x^2 / 3 for all x (Delyon 2009, Electronic Journal of
  Probability 14, 752-779), that is at most 1 in expectation, whatever the samples' distribution, if their second moment
  is at most s^2. From x = 3 on, where x - x^2 / 6 falls again, its largest value stands in: no sample multiplies the
  evidence by more than 4.5, and a large one never lowers it.
- A drift may begin at any time, so a share of 1 / (t (t + 1)) of the evidence is put down at sample t, as in a
  Shiryaev-Roberts e-detector (Shin, Ramdas & Rinaldo 2024, New England Journal of Statistics in Data Science 2,
  229-260), but with shares that add up to 1: what is bounded is not the rate of false alarms but the chance that there
  ever is one. The price is that a drift after t good samples takes log(t^2) more evidence to be found.

The second moment is estimated, from samples before the one that is judged, which makes the guarantee approximate. In
400 runs of 4000 samples at the limit a drift was found in .8 % (log-normal, sigma 0.5), .5 % (sigma 1), 1.3 % (normal)
and 4.5 % (exponential to the left, the worst that was tried). After 2000 samples at 0.7 of the limit, log-normal ones
of twice the limit (sigma 0.5, as `hcompile.policy.statistics` has it) were found after 34 in the median, 48 in 95 % and
57 in all of 200 runs, those of ten times the limit after 16, 18 and 21. That a drift was over was found after 150 to
360 samples at 0.7 of the limit (tests/policy/test_drift.py repeats a part).
"""

from __future__ import annotations

import math
from collections import deque

from hcompile.policy.metrics.score import DocumentScore

ERROR = 0.05
"""The largest probability that samples within the limit are ever called a drift."""

LEAST = 20
"""Samples that the spread is known from before anything is judged."""

WINDOW = 200
"""Samples that the spread is estimated on."""

_BETS = (0.125, 0.25, 0.5, 0.75)
"""The best bet on a shift of d standard deviations is d / (1 + d^2 / 3); these serve large and small shifts."""

_DOUBT = 20.0
"""A second moment from n samples is taken for (1 + `_DOUBT` / n) of itself."""

_LARGEST = 3.0
"""Where x - x^2 / 6 is largest."""


class DriftTest:
    """Judges samples one by one; not safe for several threads at once.

    Attributes:
        drifting: a drift was found, and its end was not. The end is found by the same test the other way round, so that
            a model near its limit is not called now one thing, now the other.
    """

    def __init__(self, limit: float, window: int = WINDOW, least: int = LEAST) -> None:
        self.drifting = False
        self._limit = limit
        self._least = least
        self._squares: deque[float] = deque(maxlen=window)
        self._restart()

    @property
    def evidence(self) -> float:
        """How much speaks for a drift, or within one for its end: from 0, and 1 / `ERROR` is enough."""
        return sum(self._evidence)

    def add(self, score: DocumentScore) -> None:
        """Judge the next sample."""
        excess = score.total - self._limit * score.weight
        if len(self._squares) >= self._least:
            self._judge(-excess if self.drifting else excess)
        self._squares.append(excess * excess)

    def _restart(self) -> None:
        self._judged = 0
        self._evidence = [0.0] * len(_BETS)

    def _judge(self, excess: float) -> None:
        self._judged += 1
        fresh = 1.0 / (self._judged * (self._judged + 1) * len(_BETS))
        z = self._standardized(excess)
        self._evidence = [
            (kept + fresh) * math.exp(_growth(bet * z) - bet * bet / 3.0)
            for bet, kept in zip(_BETS, self._evidence, strict=True)
        ]
        if self.evidence >= 1.0 / ERROR:
            self.drifting = not self.drifting
            self._restart()

    def _standardized(self, excess: float) -> float:
        count = len(self._squares)
        moment = sum(self._squares) / count * (1.0 + _DOUBT / count)
        if moment > 0.0:
            return excess / math.sqrt(moment)
        return math.copysign(math.inf, excess) if excess else 0.0


def _growth(x: float) -> float:
    x = min(x, _LARGEST)
    return x - x * x / 6.0
