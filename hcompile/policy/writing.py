"""What a model writes: the likeliest token after each, one after the other, as in greedy decoding without a cache.

A pass over a whole row says what follows every token in it, so one pass checks many guesses at once. The first guess is
the text that stood there, the next ones are what the last pass said (Jacobi iteration: Santilli et al., Accelerating
transformer inference for translation via parallel decoding, arXiv:2305.10427). Every pass settles at least one token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from hcompile.errors import UsageError
from hcompile.policy.batches import ROWS, Batch, make_batch, runs, valid_places
from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface
from hcompile.policy.metrics.base import likeliest, output_rows
from hcompile.progress import Progress, quiet


class Writer:
    """Writes the ends of documents anew with one model, and remembers them."""

    def __init__(
        self,
        call: Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]],
        interface: Interface,
        progress: Progress = quiet,
    ) -> None:
        """`call`: a causal model with logits of every token, flat inputs to flat outputs."""
        self._call = call
        self._interface = interface
        self._progress = progress
        self._written: dict[tuple[str, int], Document] = {}

    def __call__(self, documents: Sequence[Document], count: int) -> list[Document]:
        """Return the documents with their last `count` valid tokens as the model writes them after what is before.

        `asked` names these tokens. Each document has more than `count` of them.

        Raises:
            UsageError: the model has no logits of every token, or one that is not finite.
        """
        missing = [each for each in documents if (each.digest, count) not in self._written]
        done = 0
        for rows in runs(missing, self._interface.fixed_rows or ROWS):
            self._progress("write", done, len(missing))
            for row, written in zip(rows, self._write(rows, count), strict=True):
                self._written[row.digest, count] = written
            done += len(rows)
        if missing:
            self._progress("write", done, len(missing))
        # Two documents of one content have names of their own.
        return [
            replace(each, tensors=written.tensors, asked=written.asked)
            for each in documents
            for written in (self._written[each.digest, count],)
        ]

    def _write(self, rows: Sequence[Document], count: int) -> list[Document]:
        places = [valid_places(row, self._interface) for row in rows]
        rows = [
            replace(row, asked=((len(place) - count, len(place)),))
            for row, place in zip(rows, places, strict=True)
        ]
        settled = [0] * len(rows)
        with torch.inference_mode():
            while min(settled) < count:
                batch = make_batch(rows, self._interface)
                logits = self._logits(batch)
                for index, place in enumerate(places):
                    said = likeliest(logits[index, place[-count - 1 : -1]], "dense", rows[index].name).cpu()
                    rows[index], right = _with_end(rows[index], place[-count:], said, self._interface)
                    # What follows the tokens that are right is right as well.
                    settled[index] = min(right + 1, count)
        return rows

    def _logits(self, batch: Batch) -> torch.Tensor:
        logits = output_rows(self._call(batch.inputs), self._interface, "greedy")
        if batch.tokens is None or logits.shape[:2] != batch.tokens.shape:
            raise UsageError(
                f"metric greedy needs logits of every token, the model's output is {list(logits.shape)}"
            )
        return logits


def _with_end(
    row: Document, places: torch.Tensor, said: torch.Tensor, interface: Interface
) -> tuple[Document, int]:
    """Return the document with the tokens said in these places, and how many of the first ones stood there before."""
    name = interface.tokens_input
    tokens = row.tensors[name].clone()
    right = int((tokens[places] == said).cumprod(0).sum())
    tokens[places] = said.to(tokens.dtype)
    return replace(row, tensors={**row.tensors, name: tokens}), right
