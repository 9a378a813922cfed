"""Measuring a plan: the hybrid's outputs against the dense model's, document by document."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from hcompile.policy.batches import Batch, batches
from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface
from hcompile.policy.metrics.base import Metric, Write
from hcompile.policy.metrics.score import DocumentScore
from hcompile.policy.text import Encoder
from hcompile.policy.writing import Writer
from hcompile.progress import Progress, quiet

Call = Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]
"""A model: flat inputs to flat outputs."""

_KEPT_BYTES = 2**30
"""Dense outputs are kept between measurements up to this size, and computed again beyond it."""


class Remembered:
    """A model that is asked the same again and again: every plan is compared with the same dense outputs."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._kept: dict[str, Sequence[torch.Tensor]] = {}
        self._bytes = 0

    def __call__(self, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        key = Document("", {str(index): tensor for index, tensor in enumerate(inputs)}).digest
        if key in self._kept:
            return self._kept[key]
        outputs = self._call(inputs)
        size = sum(output.element_size() * output.numel() for output in outputs)
        if self._bytes + size <= _KEPT_BYTES:
            self._kept[key] = outputs
            self._bytes += size
        return outputs


@dataclass(frozen=True, slots=True)
class Comparison:
    """The dense and the hybrid model, and what is compared.

    Metrics that are measured on the same documents share one pair of passes; one that makes documents of its own costs
    another pair.

    Attributes:
        encode, seed: what metrics make documents of their own with (`Metric.documents`).
        write: the dense model's, where more than one comparison shares what it has written.
    """

    dense: Call
    hybrid: Call
    interface: Interface
    metrics: Sequence[Metric]
    encode: Encoder | None = None
    seed: int = 0
    progress: Progress = quiet
    write: Write | None = None

    def measured(
        self, documents: Sequence[Document], stage: str
    ) -> Iterator[tuple[Batch, list[list[DocumentScore]]]]:
        """Yield the batches (some rows padded) with the scores of their rows by metric, none of those not asked."""
        passes = self._passes(documents)
        done, total = 0, sum(len(measured) for measured, _ in passes)
        self.progress(stage, done, total)
        for measured, asked in passes:
            for batch in batches(measured, self.interface):
                with torch.inference_mode():
                    dense, hybrid = self.dense(batch.inputs), self.hybrid(batch.inputs)
                    scores = [
                        metric.score(dense, hybrid, batch, self.interface) if index in asked else []
                        for index, metric in enumerate(self.metrics)
                    ]
                done += len(batch.documents)
                self.progress(stage, done, total)
                yield batch, scores

    def scores(self, documents: Sequence[Document], stage: str) -> list[list[DocumentScore]]:
        """Return the scores of all documents by metric."""
        found: list[list[DocumentScore]] = [[] for _ in self.metrics]
        for _, by_metric in self.measured(documents, stage):
            for scores, new in zip(found, by_metric, strict=True):
                scores += new
        return found

    def _passes(self, documents: Sequence[Document]) -> list[tuple[Sequence[Document], set[int]]]:
        """Return what the models are run on, and the metrics that each of it is for."""
        passes: list[tuple[Sequence[Document], set[int]]] = []
        write = self.write or Writer(self.dense, self.interface, self.progress)
        for index, metric in enumerate(self.metrics):
            wanted = metric.documents(documents, self.interface, self.encode, self.seed, write)
            known = next((asked for measured, asked in passes if measured is wanted), None)
            if known is None:
                passes.append((wanted, {index}))
            else:
                known.add(index)
        return passes
