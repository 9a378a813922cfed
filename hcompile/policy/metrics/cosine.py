"""1 - cosine similarity of output vectors, for models without logits: `cosine=0.999` allows 0.001."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F

from hcompile.errors import UsageError
from hcompile.policy.batches import Batch
from hcompile.policy.interface import Interface
from hcompile.policy.metrics.base import DocumentScore, Metric, check_finite, chunks, output_rows, row_valid


class Cosine(Metric):
    """See the module's docstring."""

    name: ClassVar[str] = "cosine"
    unit: ClassVar[str] = "1 - cosine similarity"
    needs_logits: ClassVar[bool] = False
    expanded: ClassVar[bool] = True

    def limit(self, written: float) -> float:
        """Raises: UsageError when the least similarity is above 1."""
        if written > 1:
            raise UsageError(
                f"budget cosine={written:g} is above 1: write the least similarity, such as cosine=0.999"
            )
        return 1.0 - written

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
            u, v = expected[row, valid], found[row, valid]
            total = 0.0
            for part in chunks(u):
                first, second = u[part].double(), v[part].double()
                check_finite(float(first.sum()), "dense", document.name)
                check_finite(float(second.sum()), "hybrid", document.name)
                # 1 - cos = |a - b|^2 / 2 of the unit vectors, without the cancellation.
                apart = F.normalize(first, dim=-1) - F.normalize(second, dim=-1)
                total += float(apart.square().sum()) / 2
            scores.append(DocumentScore(total, float(len(u)), len(u)))
        return scores
