"""Lengths beyond the planned ones: checked before the work, and measured once the certificate holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from hcompile.errors import UsageError
from hcompile.pipeline.tuning import check_lengths
from hcompile.policy.calibration import Splits
from hcompile.policy.certificate import Certificate
from hcompile.policy.certify import at_length
from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface
from hcompile.policy.longer import longer_documents
from hcompile.policy.text import Encoder
from hcompile.program import Program

Longer = Mapping[int, tuple[Document, ...]]
"""Documents by their length in tokens, rising."""


def check_beyond(
    wanted: Sequence[int], planned: int, program: Program, axis: tuple[int, int] | None
) -> tuple[int, ...]:
    """Return the lengths beyond `planned`, rising.

    Raises:
        UsageError: one is not longer, or the export does not allow it.
    """
    for length in wanted:
        if length <= planned:
            raise UsageError(
                f"--beyond {length}: the plan is made for {planned} tokens: name a greater length"
            )
    check_lengths("--beyond", wanted, program, axis)
    return tuple(sorted(set(wanted)))


def read_longer(
    lengths: Sequence[int],
    splits: Splits | None,
    interface: Interface,
    encode: Encoder | None,
    *,
    planned: int,
    seed: int,
) -> tuple[Longer, tuple[str, ...]]:
    """Return documents of each length, as many as the certificate has, and warnings.

    Args:
        splits: documents that are fit for a certificate, None where there are none.
        planned: tokens of these.

    Raises:
        UsageError: there is nothing to cut such documents from.
    """
    found: dict[int, tuple[Document, ...]] = {}
    warnings = []
    for length in lengths:
        if splits is None:
            raise UsageError(f"--beyond {length}: it is measured beside the certificate: pass --calib")
        if encode is None:
            raise UsageError(f"--beyond {length}: the model takes no text, and only text is cut to a length")
        found[length], warning = longer_documents(
            splits, interface, encode, length, planned=planned, count=len(splits.certify), seed=seed
        )
        warnings += [warning] if warning else []
    return found, tuple(warnings)


def measure_beyond(
    certificate: Certificate, longer: Longer, certify: Callable[[Sequence[Document]], Certificate]
) -> tuple[Certificate, tuple[str, ...]]:
    """Return the certificate with what the longer documents lose, and warnings of lengths that were not measured.

    The certificate was there before: what goes wrong at a longer length takes nothing from it.

    Args:
        certify: measures documents as it was measured.
    """
    steps, warnings = [], []
    for length, documents in longer.items():
        try:
            steps.append(at_length(length, certify(documents)))
        except torch.OutOfMemoryError:
            warnings.append(f"--beyond {length}: not measured, the device has no room for such documents")
        except UsageError as error:
            warnings.append(f"--beyond {length}: not measured: {error}")
    return replace(certificate, beyond=tuple(steps)), tuple(warnings)
