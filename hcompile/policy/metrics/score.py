"""What a metric keeps of one document: sums, and for a tail how many tokens reached which size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

STEPS_AN_OCTAVE = 32
"""Steps of the ladder of sizes that tokens are counted on: what is read off it is rounded up by 2.2 % at most."""

_SMALLEST = -30
"""Octave (power of two) below which a degradation is as good as none: 1e-9."""


@dataclass(frozen=True, slots=True)
class DocumentScore:
    """One document's share of a degradation: the degradation of many is sum(total) / sum(weight).

    Attributes:
        total: the degradation, summed over the document.
        weight: what it is divided by, such as its number of tokens.
        tokens: valid tokens (or rows of output) that were compared.
        steps: (step, tokens on it), rising, see `step_of`; empty where nobody asks for a tail.
    """

    total: float
    weight: float
    tokens: int
    steps: tuple[tuple[int, int], ...] = ()

    def to_json(self) -> list[Any]:
        sums = [self.total, self.weight, self.tokens]
        return [*sums, [list(step) for step in self.steps]] if self.steps else sums

    @classmethod
    def from_json(cls, value: list[Any]) -> DocumentScore:
        total, weight, tokens, *others = value
        steps = tuple((int(step), int(count)) for step, count in (others[0] if others else ()))
        return cls(float(total), float(weight), int(tokens), steps)


def degradation(scores: Sequence[DocumentScore]) -> float:
    """Return the degradation over all documents."""
    return sum(score.total for score in scores) / sum(score.weight for score in scores)


def merged(scores: Sequence[DocumentScore]) -> DocumentScore:
    """Return one score for several documents."""
    steps: Counter[int] = Counter()
    for score in scores:
        steps.update(dict(score.steps))
    return DocumentScore(
        sum(score.total for score in scores),
        sum(score.weight for score in scores),
        sum(score.tokens for score in scores),
        tuple(sorted(steps.items())),
    )


def steps_of(values: Iterable[float]) -> tuple[tuple[int, int], ...]:
    """Count a document's values by step, rising: step 0 holds what is no degradation at all."""
    return tuple(sorted(Counter(map(step_of, values)).items()))


def step_of(value: float) -> int:
    """Return the lowest step whose size is at least `value`; 0 where that is not positive."""
    if value <= 0:
        return 0
    step = max(1, math.ceil((math.log2(value) - _SMALLEST) * STEPS_AN_OCTAVE) + 1)
    return step if size_of(step) >= value else step + 1  # the logarithm is rounded


def size_of(step: int) -> float:
    """Return the largest value on a step."""
    return 0.0 if step == 0 else 2.0 ** (_SMALLEST + (step - 1) / STEPS_AN_OCTAVE)
