"""Relative increase of the negative log likelihood of the text itself: `nll=0.5%`. One token's is counted in nats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from hcompile.policy.batches import Batch
from hcompile.policy.interface import Interface
from hcompile.policy.metrics.base import (
    TokenMetric,
    check_finite,
    chunks,
    next_token_rows,
    output_rows,
    row_valid,
)
from hcompile.policy.metrics.score import DocumentScore


class NLL(TokenMetric):
    """(NLL hybrid - NLL dense) / NLL dense, the sums over all documents. Negative where the hybrid fits better."""

    name = "nll"
    unit = "of the dense NLL"
    value_unit = "nats"
    needs_logits = True
    needs_next_tokens = True

    def score(
        self,
        dense: Sequence[torch.Tensor],
        hybrid: Sequence[torch.Tensor],
        batch: Batch,
        interface: Interface,
    ) -> list[DocumentScore]:
        return [
            DocumentScore(float(after.sum() - before.sum()), float(before.sum()), len(before))
            for before, after in self._losses(dense, hybrid, batch, interface)
        ]

    def values(
        self,
        dense: Sequence[torch.Tensor],
        hybrid: Sequence[torch.Tensor],
        batch: Batch,
        interface: Interface,
    ) -> list[torch.Tensor]:
        """Return what each token of the text became less likely by, in nats."""
        return [after - before for before, after in self._losses(dense, hybrid, batch, interface)]

    def _losses(
        self,
        dense: Sequence[torch.Tensor],
        hybrid: Sequence[torch.Tensor],
        batch: Batch,
        interface: Interface,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the dense and the hybrid model's loss of each token but the first, float64 in nats, row by row."""
        expected, tokens = next_token_rows(dense, batch, interface, self.name)
        found = output_rows(hybrid, interface, self.name)
        for row, document in enumerate(batch.documents):
            valid = row_valid(expected, batch, row)
            text = tokens[row][valid][1:]
            before = _nll(expected[row, valid][:-1], text)
            after = _nll(found[row, valid][:-1], text)
            check_finite(float(before.sum()), "dense", document.name)
            check_finite(float(after.sum()), "hybrid", document.name)
            yield before, after


def _nll(logits: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Return nats, float64 `[S]`; logits `[S, V]`, text int64 `[S]`."""
    parts = [torch.zeros(0, dtype=torch.float64, device=logits.device)]
    for part in chunks(logits):
        log_p = logits[part].double().log_softmax(-1)
        parts.append(-log_p.gather(1, text[part, None])[:, 0])
    return torch.cat(parts)
