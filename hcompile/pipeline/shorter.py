"""Lengths below the planned one, where windows widen with the length: what is measured there, on which documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from hcompile.errors import UsageError
from hcompile.plan import Plan
from hcompile.policy.calibration import Splits, beginnings
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


def check_widen(splits: Splits | None, interface: Interface, lengths: Sequence[int]) -> None:
    """Raise UsageError unless there are texts of all lengths (rising), to choose and to certify with."""
    if splits is None or not _are_texts(
        (*splits.profile, *splits.repair, *splits.certify), interface, lengths
    ):
        raise UsageError(
            "--widen measures on the beginnings of texts: pass --calib, and --verify if any, with text of "
            f"{lengths[-1]} tokens, not named inputs"
        )


def shortened(documents: Sequence[Document], interface: Interface, lengths: Sequence[int]) -> Shorter:
    """Return the beginnings of documents at all lengths (rising) but the last; nothing where they are no such texts."""
    if not _are_texts(documents, interface, lengths):
        return {}
    return {length: tuple(cut(document, length) for document in documents) for length in lengths[:-1]}


def _are_texts(documents: Sequence[Document], interface: Interface, lengths: Sequence[int]) -> bool:
    # Named rows of ids alone have lengths of their own.
    return all(
        interface.is_text(document.tensors) and (interface.length_of(document.tensors) or 0) >= max(lengths)
        for document in documents
    )


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
        there = beginnings(splits, models.interface, length)
        keeper = partial(_keeper, there, models, goals, seed, memory, progress)
        found[length] = _Shortened(keeper)
    return found


def _keeper(
    splits: Splits,
    models: Models,
    goals: Sequence[Goal],
    seed: int,
    memory: Memory,
    progress: Progress,
    units: Sequence[Unit],
) -> Keeper:
    return Keeper(memory, models, units, splits, goals, seed, progress)


class _Shortened:
    """Scores and measures plans on the beginnings of the documents that chose them."""

    def __init__(self, keeper: Callable[[Sequence[Unit]], Keeper]) -> None:
        """`keeper`: for units whose options are to be scored."""
        self._keeper = keeper
        self._measuring = keeper(())

    def expand(self, plan: Plan, units: Sequence[Unit]) -> Scores:
        return self._keeper(units).expand(plan, "widen")

    def measure(self, plan: Plan) -> list[list[DocumentScore]]:
        return self._measuring.measure(plan, "widen")


def measure_shorter(
    certificate: Certificate, shorter: Shorter, certify: Callable[[Sequence[Document]], Certificate]
) -> Certificate:
    """Return the certificate with what the beginnings of its documents lose.

    Args:
        certify: measures documents as it was measured.
    """
    steps = (at_length(length, certify(documents)) for length, documents in shorter.items())
    return replace(certificate, shorter=tuple(steps))
