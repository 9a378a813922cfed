"""KL(dense || hybrid) of the next-token distributions, in nats a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from hcompile.policy.batches import Batch
from hcompile.policy.interface import Interface
from hcompile.policy.metrics.base import DocumentScore, Metric, check_finite, chunks, output_rows, row_valid


class KL(Metric):
    """See the module's docstring."""

    name: ClassVar[str] = "kl"
    unit: ClassVar[str] = "nats a token"
    needs_logits: ClassVar[bool] = True
    expanded: ClassVar[bool] = True

    def score(
        self,
        dense: Sequence[torch.Tensor],
        hybrid: Sequence[torch.Tensor],
        batch: Batch,
        interface: Interface,
    ) -> list[DocumentScore]:
        expected = output_rows(dense, interface, self.name)
        found = output_rows(hybrid, interface, self.name)
        scores = []
        for row, document in enumerate(batch.documents):
            valid = row_valid(expected, batch, row)
            p, q = expected[row, valid], found[row, valid]
            total = 0.0
            for part in chunks(p):
                log_p = p[part].double().log_softmax(-1)
                check_finite(float(log_p.sum()), "dense", document.name)
                part_total = float((log_p.exp() * (log_p - q[part].double().log_softmax(-1))).sum())
                check_finite(part_total, "hybrid", document.name)
                total += part_total
            # Rounding alone may leave a sum just below zero.
            scores.append(DocumentScore(max(total, 0.0), float(len(p)), len(p)))
        return scores
