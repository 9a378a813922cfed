"""Share of tokens whose likeliest successor is another one than the dense model's: `top1=0.99` allows 1 %."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hcompile.policy.batches import Batch
from hcompile.policy.interface import Interface
from hcompile.policy.metrics.base import Metric, allowed_below, likeliest, output_rows, row_valid
from hcompile.policy.metrics.score import DocumentScore
from hcompile.policy.share import Share


class Top1(Metric):
    """See the module's docstring."""

    name = "top1"
    unit = "changed of all tokens"
    needs_logits = True
    statistic = Share("tokens")

    def limit(self, written: float) -> float:
        """Raises: UsageError when the least agreement is above 1."""
        return allowed_below("top1", written, "share of tokens that agree", 0.99)

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
            first = likeliest(expected[row, valid], "dense", document.name)
            second = likeliest(found[row, valid], "hybrid", document.name)
            differ = int((first != second).sum())
            scores.append(DocumentScore(float(differ), float(len(first)), len(first)))
        return scores
