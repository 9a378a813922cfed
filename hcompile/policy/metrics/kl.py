"""KL(dense || hybrid) of the next-token distributions, in nats a token."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hcompile.policy.batches import Batch
from hcompile.policy.interface import Interface
from hcompile.policy.metrics.base import TokenMetric, check_finite, chunks, output_rows, row_valid


class KL(TokenMetric):
    """See the module's docstring."""

    name = "kl"
    unit = "nats a token"
    value_unit = "nats"
    needs_logits = True
    expanded = True

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
            p, q = expected[row, valid], found[row, valid]
            parts = [torch.zeros(0, dtype=torch.float64, device=p.device)]
            for part in chunks(p):
                log_p = p[part].double().log_softmax(-1)
                check_finite(float(log_p.sum()), "dense", document.name)
                parts.append((log_p.exp() * (log_p - q[part].double().log_softmax(-1))).sum(-1))
                check_finite(float(parts[-1].sum()), "hybrid", document.name)
            rows.append(torch.cat(parts))
        return rows
