"""Greedy text that the hybrid writes as the dense model does: `greedy=0.7` allows 30 % of 64 tokens to be others.

The dense model writes the last 64 tokens of each document anew (`hcompile.policy.writing`). Up to the first token that
the hybrid would choose otherwise, both have written the same text, so one pass of the hybrid over the dense model's
text finds that token: what it would have written after it is not needed. The tokens from there on are lost, however
much of them it would get right again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hcompile.errors import UsageError
from hcompile.policy.batches import Batch
from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface
from hcompile.policy.metrics.base import Metric, Write, allowed_below, likeliest, output_rows, row_valid
from hcompile.policy.metrics.score import DocumentScore
from hcompile.policy.share import Share
from hcompile.policy.text import Encoder
from hcompile.policy.valid_text import valid_places

TOKENS = 64
"""Tokens that are written: one answer of a completion, and still few beside what was read."""


class Greedy(Metric):
    """See the module's docstring. A document is one trial, of which a part may be lost."""

    name = "greedy"
    unit = "lost of the tokens written"
    needs_logits = True
    needs_next_tokens = True
    own_documents = True
    statistic = Share("documents that the dense model continues")

    def limit(self, written: float) -> float:
        """Raises: UsageError when the least share is above 1."""
        return allowed_below("greedy", written, "share of tokens before the texts part", 0.7)

    def documents(
        self,
        documents: Sequence[Document],
        interface: Interface,
        encode: Encoder | None,
        seed: int,
        write: Write | None = None,
    ) -> Sequence[Document]:
        for document in documents:
            if (tokens := len(valid_places(document, interface))) < 2 * TOKENS:
                raise UsageError(
                    f"metric greedy: {document.name} has {tokens} tokens, and {TOKENS} are to be written after at "
                    f"least {TOKENS}: choose a length of {2 * TOKENS} or more"
                )
        return documents if write is None else write(documents, TOKENS)

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
            valid = row_valid(expected, batch, row).nonzero().flatten()
            ((start, stop),) = document.asked
            if stop > len(valid):
                # A padded row has lost its end, and what was written there.
                scores.append(DocumentScore(0.0, 0.0, 0))
                continue
            before = valid[start - 1 : stop - 1]
            first = likeliest(expected[row, before], "dense", document.name)
            second = likeliest(found[row, before], "hybrid", document.name)
            same = int((first == second).cumprod(0).sum())
            scores.append(DocumentScore(1.0 - same / len(before), 1.0, len(before)))
        return scores
