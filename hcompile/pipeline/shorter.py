"""Lengths below the planned one, where windows widen with the length: what is measured there, on which documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from hcompile.errors import UsageError
from hcompile.plan import Plan
from hcompile.policy.calibration import Splits
from hcompile.policy.certificate import Certificate
from hcompile.policy.certify import at_length
from hcompile.policy.documents import Document, cut
from hcompile.policy.goal import Goal
from hcompile.policy.interface import Interface
from hcompile.policy.measure import Remembered
from hcompile.policy.memory import Memory
from hcompile.policy.metrics.score import DocumentScore
from hcompile.policy.policy import Keeper, Models
from hcompile.policy.profile import Scores
from hcompile.policy.units import Unit
from hcompile.policy.widen import AtShorter
from hcompile.progress import Progress

Shorter = Mapping[int, tuple[Document, ...]]
"""Documents by their length in tokens, rising."""


def check_widen(splits: Splits | None, interface: Interface) -> None:
    """Raise UsageError unless there are documents to cut to a length, as `--widen` measures on."""
    if splits is None or interface.tokens is None or not all(map(_is_text, splits.repair)):
        raise UsageError(
            "--widen measures on the beginnings of texts: pass --calib with text, not named inputs"
        )


def shortened(documents: Sequence[Document], lengths: Sequence[int]) -> Shorter:
    """Return the beginnings of documents, by length; nothing where they are no texts."""
    if not all(map(_is_text, documents)):
        return {}
    return {length: tuple(cut(document, length) for document in documents) for length in lengths}


def at_shorter(
    models: Models,
    splits: Splits,
    lengths: Sequence[int],
    goals: Sequence[Goal],
    seed: int,
    memory: Memory,
    progress: Progress,
) -> dict[int, AtShorter]:
    """Return what scores and measures plans at each length, on the beginnings of the documents that chose them."""
    models = replace(models, dense=Remembered(models.dense))
    found: dict[int, AtShorter] = {}
    for length in lengths:
        profile, repair = (
            tuple(cut(document, length) for document in documents)
            for documents in (splits.profile, splits.repair)
        )
        there = replace(splits, profile=profile, repair=repair)
        found[length] = _Shortened(models, there, goals, seed, memory, progress)
    return found


@dataclass(frozen=True, slots=True)
class _Shortened:
    """Scores and measures plans on the beginnings of the documents that chose them."""

    models: Models
    splits: Splits
    goals: Sequence[Goal]
    seed: int
    memory: Memory
    progress: Progress

    def expand(self, plan: Plan, units: Sequence[Unit]) -> Scores:
        return self._keeper(units).expand(plan, "widen")

    def measure(self, plan: Plan) -> list[list[DocumentScore]]:
        return self._keeper(()).measure(plan, "widen")

    def _keeper(self, units: Sequence[Unit]) -> Keeper:
        return Keeper(self.memory, self.models, units, self.splits, self.goals, self.seed, self.progress)


def measure_shorter(
    certificate: Certificate, shorter: Shorter, certify: Callable[[Sequence[Document]], Certificate]
) -> Certificate:
    """Return the certificate with what the beginnings of its documents lose.

    Args:
        certify: measures documents as it was measured.
    """
    steps = (at_length(length, certify(documents)) for length, documents in shorter.items())
    return replace(certificate, shorter=tuple(steps))


def _is_text(document: Document) -> bool:
    return len(document.tensors) == 1
