"""1 - cosine similarity of output vectors, for models without logits: `cosine=0.999` allows 0.001."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from hcompile.policy.batches import Batch
from hcompile.policy.interface import Interface
from hcompile.policy.metrics.base import (
    TokenMetric,
    allowed_below,
    check_finite,
    chunks,
    output_rows,
    row_valid,
)


class Cosine(TokenMetric):
    """See the module's docstring."""

    name = "cosine"
    unit = value_unit = "1 - cosine similarity"
    needs_logits = False
    expanded = True

    def limit(self, written: float) -> float:
        """Raises: UsageError when the least similarity is above 1."""
        return allowed_below("cosine", written, "similarity", 0.999)

    def values(
        self,
        dense: Sequence[torch.Tensor],
        hybrid: Sequence[torch.Tensor],
        batch: Batch,
        interface: Interface,
    ) -> list[torch.Tensor]:
        expected = output_rows(dense, interface, self.name)
        found = output_rows(hybrid, interface, self.name)
        rows = []
        for row, document in enumerate(batch.documents):
            valid = row_valid(expected, batch, row)
            u, v = expected[row, valid], found[row, valid]
            parts = [torch.zeros(0, dtype=torch.float64, device=u.device)]
            for part in chunks(u):
                first, second = u[part].double(), v[part].double()
                check_finite(float(first.sum()), "dense", document.name)
                check_finite(float(second.sum()), "hybrid", document.name)
                # 1 - cos = |a - b|^2 / 2 of the unit vectors, without the cancellation.
                apart = F.normalize(first, dim=-1) - F.normalize(second, dim=-1)
                parts.append(apart.square().sum(-1) / 2)
            rows.append(torch.cat(parts))
        return rows
