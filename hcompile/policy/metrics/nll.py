"""Relative increase of the negative log likelihood of the text itself: `nll=0.5%`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from hcompile.errors import UsageError
from hcompile.policy.batches import Batch
from hcompile.policy.interface import Interface
from hcompile.policy.metrics.base import DocumentScore, Metric, check_finite, chunks, output_rows, row_valid
from hcompile.site import Site


class NLL(Metric):
    """(NLL hybrid - NLL dense) / NLL dense, the sums over all documents. Negative where the hybrid fits better."""

    name: ClassVar[str] = "nll"
    unit: ClassVar[str] = "of the dense NLL"
    needs_logits: ClassVar[bool] = True

    def check(self, interface: Interface, sites: Sequence[Site]) -> None:
        super().check(interface, sites)
        if interface.tokens is None or not all(site.causal for site in sites):
            raise UsageError("metric nll needs a causal model of tokens: use kl=0.003")

    def score(
        self,
        dense: Sequence[torch.Tensor],
        hybrid: Sequence[torch.Tensor],
        batch: Batch,
        interface: Interface,
    ) -> list[DocumentScore]:
        expected = output_rows(dense, interface, self.name)
        found = output_rows(hybrid, interface, self.name)
        if batch.tokens is None or batch.tokens.shape != expected.shape[:2]:
            raise UsageError(
                f"metric nll needs logits of every token, the model's output is {list(expected.shape)}"
            )
        scores = []
        for row, document in enumerate(batch.documents):
            valid = row_valid(expected, batch, row)
            text = batch.tokens[row].to(valid.device)[valid][1:]
            before = _nll(expected[row, valid][:-1], text)
            after = _nll(found[row, valid][:-1], text)
            check_finite(before, "dense", document.name)
            check_finite(after, "hybrid", document.name)
            scores.append(DocumentScore(after - before, before, len(text)))
        return scores


def _nll(logits: torch.Tensor, text: torch.Tensor) -> float:
    """Return the sum in nats; logits `[S, V]`, text int64 `[S]`."""
    total = 0.0
    for part in chunks(logits):
        picked = logits[part].double().log_softmax(-1).gather(1, text[part, None])
        total -= float(picked.sum())
    return total
