"""Lengths below the planned one, where windows widen with the length: what a certificate is measured on there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from hcompile.errors import UsageError
from hcompile.policy.calibration import Splits
from hcompile.policy.certificate import Certificate
from hcompile.policy.certify import at_length
from hcompile.policy.documents import Document, cut
from hcompile.policy.interface import Interface

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
