"""What a model writes: the likeliest token after each, one after the other, as in greedy decoding without a cache.

A pass over a whole row says what follows every token in it, so one pass checks many guesses at once. What is guessed is
what followed the same tokens earlier in the text (A. Saxena, Prompt lookup decoding, 2023; Yang et al., Inference with
reference, arXiv:2304.04487). Every pass settles one token at least. Of Python code (examples/byte-llama, 64 bytes after
960 of 13 files) it settled 7.6, or 5.3 of two files at once, of which one waits for the other; guesses of what the last
pass said there (Jacobi iteration, arXiv:2305.10427) 1.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from operator import eq

import torch

from hcompile.policy.batches import make_batch, runs
from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface
from hcompile.policy.metrics.base import likeliest, next_token_rows
from hcompile.policy.valid_text import valid_places, valid_text, with_text
from hcompile.progress import Progress, quiet

_LONGEST = 32
"""Tokens that are looked up at most: where so many are the same, more of them hardly say more."""


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
        for rows in runs(missing, self._interface):
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
        ends = [_End(row, count, self._interface) for row in rows]
        with torch.inference_mode():
            while not all(end.settled for end in ends):
                batch = make_batch([end.document() for end in ends], self._interface)
                logits, _ = next_token_rows(self._call(batch.inputs), batch, self._interface, "greedy")
                for index, end in enumerate(ends):
                    end.settle(logits[index])
        return [end.document() for end in ends]


class _End:
    """A document whose last `count` valid tokens are being written: those that are settled, and guesses behind them."""

    def __init__(self, row: Document, count: int, interface: Interface) -> None:
        self._interface = interface
        self._places = valid_places(row, interface)
        length = len(self._places)
        self._row = replace(row, asked=((length - count, length),))
        self._settled = length - count
        self._text = self._with_guesses(valid_text(row, interface)[: self._settled])

    @property
    def settled(self) -> bool:
        return self._settled == len(self._places)

    def document(self) -> Document:
        return with_text(self._row, self._text, self._interface)

    def settle(self, logits: torch.Tensor) -> None:
        """Take what the model says, `[S, V]`, up to the first guess that it does not say, which it has put right."""
        if self.settled:
            return
        before = self._places[self._settled - 1 : -1].to(logits.device)
        said = likeliest(logits[before], "dense", self._row.name).tolist()
        right = sum(takewhile(bool, map(eq, self._text[self._settled :], said)))
        known = [*self._text[: self._settled], *said[: right + 1]]
        self._settled = len(known)
        self._text = self._with_guesses(known)

    def _with_guesses(self, known: list[int]) -> list[int]:
        return [*known, *guessed(known, len(self._places) - len(known))]


def guessed(text: Sequence[int], count: int) -> list[int]:
    """Return `count` tokens: what followed the longest end of the text that it held before, the last time it did."""
    found = [*text]
    while (missing := len(text) + count - len(found)) > 0:
        ends = [place for place in range(len(found) - 1) if found[place] == found[-1]]
        follows = len(found) - 1
        for length in range(1, _LONGEST):
            if not ends:
                break
            follows = ends[-1] + 1
            ends = [
                place for place in ends if place >= length and found[place - length] == found[-1 - length]
            ]
        found += found[follows : follows + missing]
    return found[len(text) :]
