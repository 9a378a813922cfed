"""A percentile of another metric's values over tokens: `kl.p99=0.05` allows 1 % of them more than 0.05."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hcompile.errors import UsageError
from hcompile.policy.batches import Batch
from hcompile.policy.interface import Interface
from hcompile.policy.metrics.base import Metric, TokenMetric
from hcompile.policy.metrics.score import DocumentScore, steps_of
from hcompile.policy.quantile import Quantile
from hcompile.site import Site


class Tail(Metric):
    """See the module's docstring."""

    name = "tail"

    def __init__(self, inner: Metric, percent: float) -> None:
        """Raises: UsageError when the metric has no value for each token, or the percentile is none of a tail."""
        if not isinstance(inner, TokenMetric):
            raise UsageError(f"metric {inner.label()} has no percentile: use kl.p99, nll.p99 or cosine.p99")
        if not 50 <= percent < 100:
            raise UsageError(
                f"metric {inner.name}.p{percent:g}: write a percentile from p50 to below p100, such as p99"
            )
        self._inner = inner
        self._percent = percent
        self.unit = inner.value_unit
        self.needs_logits = inner.needs_logits
        self.statistic = Quantile((100 - percent) / 100)

    def label(self) -> str:
        return f"{self._inner.name}.p{self._percent:g}"

    def source(self) -> str:
        # What is kept of a document serves every percentile.
        return f"{self._inner.source()}.tail"

    def limit(self, written: float) -> float:
        return self._inner.limit(written)

    def check(self, interface: Interface, sites: Sequence[Site]) -> None:
        self._inner.check(interface, sites)

    def score(
        self,
        dense: Sequence[torch.Tensor],
        hybrid: Sequence[torch.Tensor],
        batch: Batch,
        interface: Interface,
    ) -> list[DocumentScore]:
        return [
            DocumentScore(float(row.sum()), float(len(row)), len(row), steps_of(row.tolist()))
            for row in self._inner.values(dense, hybrid, batch, interface)
        ]
