"""Planted pairs that the dense model recalls and the hybrid does not: `recall=0.98` allows 2 % of them.

The metric brings its own documents: those it is given, with pairs planted at an eighth to three quarters of their
length (`planting`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from hcompile.errors import UsageError
from hcompile.policy.batches import Batch
from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface
from hcompile.policy.metrics.base import (
    Metric,
    Write,
    allowed_below,
    likeliest,
    next_token_rows,
    output_rows,
    row_valid,
)
from hcompile.policy.metrics.planting import plant
from hcompile.policy.metrics.score import DocumentScore
from hcompile.policy.share import Share
from hcompile.policy.text import Encoder
from hcompile.policy.valid_text import valid_text, with_text


class Recall(Metric):
    """See the module's docstring. A pair is recalled where every token of its value is the likeliest one."""

    name = "recall"
    unit = "lost of the pairs recalled"
    needs_logits = True
    needs_next_tokens = True
    own_documents = True
    statistic = Share("planted pairs that the dense model recalls")

    def limit(self, written: float) -> float:
        """Raises: UsageError when the least share is above 1."""
        return allowed_below("recall", written, "share of pairs recalled", 0.98)

    def documents(
        self,
        documents: Sequence[Document],
        interface: Interface,
        encode: Encoder | None,
        seed: int,
        write: Write | None = None,
    ) -> Sequence[Document]:
        if encode is None or interface.tokens is None:
            raise UsageError("metric recall plants text, and the model takes none: use kl=0.003")
        found = [_planted(document, interface, encode, seed) for document in documents]
        if not any(document.asked for document in found):
            longest = max((interface.length_of(document.tensors) or 0 for document in documents), default=0)
            raise UsageError(
                f"metric recall: documents of {longest} tokens have no room for planted pairs: choose a longer length"
            )
        return found

    def score(
        self,
        dense: Sequence[torch.Tensor],
        hybrid: Sequence[torch.Tensor],
        batch: Batch,
        interface: Interface,
    ) -> list[DocumentScore]:
        expected, tokens = next_token_rows(dense, batch, interface, self.name)
        found = output_rows(hybrid, interface, self.name)
        scores = []
        for row, document in enumerate(batch.documents):
            valid = row_valid(expected, batch, row)
            text = tokens[row][valid][1:]
            right = [
                (likeliest(outputs[row, valid], kind, document.name)[:-1] == text).tolist()
                for outputs, kind in ((expected, "dense"), (found, "hybrid"))
            ]
            # A padded row has lost its end, and the pairs there.
            spans = [slice(start - 1, stop - 1) for start, stop in document.asked if stop <= len(text) + 1]
            known = [span for span in spans if all(right[0][span])]
            lost = sum(not all(right[1][span]) for span in known)
            asked = sum(span.stop - span.start for span in known)
            scores.append(DocumentScore(float(lost), float(len(known)), asked))
        return scores


def _planted(document: Document, interface: Interface, encode: Encoder, seed: int) -> Document:
    """Return a document with pairs among its valid tokens, which depend on its content and the seed alone."""
    text = valid_text(document, interface)
    planted, asked = plant(text, encode, random.Random(f"{seed}/{document.digest}"))
    return replace(with_text(document, planted, interface), asked=asked)
