"""Batches to measure quality on: several rows, one of them shorter and padded on the left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface

ROWS = 2
"""Rows of a measured batch, where the export leaves the batch dynamic."""

_PADDED_EVERY = 4
"""Every fourth batch has padding: enough to notice when it is handled wrongly, few enough that the dense model, which
takes torch's slow way through a mask there, does not decide how long a measurement takes."""

_SHORTENED = 16
"""Padded rows lose up to this part of their tokens, so that the measurement stays one of the length it names."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Flat inputs of one call.

    Attributes:
        inputs: tensors in the program's order.
        valid: bool `[B, S]`, True for tokens that count; None where the inputs know no padding.
        tokens: int64 `[B, S]`, the token ids; None for models that take none.
        documents: one per row; where the export fixed a larger batch, the last one fills the other rows.
        length: what attention runs over in a row, padding included; 1 where nothing says it.
    """

    inputs: tuple[torch.Tensor, ...]
    valid: torch.Tensor | None
    tokens: torch.Tensor | None
    documents: tuple[Document, ...]
    length: int

    def token_counts(self) -> list[int]:
        """Return the valid tokens of each document."""
        if self.valid is not None:
            counts: list[int] = self.valid[: len(self.documents)].sum(1).tolist()
            return counts
        return [self.length] * len(self.documents)


def batches(documents: Sequence[Document], interface: Interface) -> Iterator[Batch]:
    """Yield batches of `ROWS` documents of equal shapes; the last one may have fewer.

    With a padding mask, every second row of every fourth batch is cut to a length of its own and padded on the left.
    """
    for index, run in enumerate(runs(documents, interface)):
        yield make_batch(run, interface, padded=index % _PADDED_EVERY == 0)


def runs(documents: Iterable[Document], interface: Interface) -> Iterator[list[Document]]:
    """Yield neighbours of equal shapes, as many as a batch takes at most."""
    rows = interface.fixed_rows or ROWS
    run: list[Document] = []
    for document in documents:
        if run and (len(run) == rows or _shapes(document) != _shapes(run[0])):
            yield run
            run = []
        run.append(document)
    if run:
        yield run


def make_batch(documents: Sequence[Document], interface: Interface, *, padded: bool = False) -> Batch:
    """Return one batch of documents of equal shapes, without padding unless it is asked for."""
    rows = list(documents)
    rows += rows[-1:] * ((interface.fixed_rows or 0) - len(rows))
    columns = {name: [row.tensors[name] for row in rows] for name in rows[0].tensors}
    tokens_name = None if interface.tokens is None else interface.tokens_input
    mask_name = interface.mask_input
    valid = None
    if mask_name in columns:
        # Documents that bring a mask of their own are padded as their author wanted them.
        valid = torch.stack(columns[mask_name]) != 0
    elif mask_name is not None and tokens_name in columns:
        length = columns[tokens_name][0].shape[0]
        pads = [_pad(length, index, row) if padded else 0 for index, row in enumerate(rows)]
        # A row keeps its beginning, moved to the right end of the batch.
        columns[tokens_name] = [
            F.pad(ids[: length - pad], (pad, 0)) for ids, pad in zip(columns[tokens_name], pads, strict=True)
        ]
        valid = torch.arange(length) >= torch.tensor(pads)[:, None]
    stacked = {name: torch.stack(column) for name, column in columns.items()}
    tokens = None if tokens_name is None else stacked[tokens_name]
    flat = []
    for spec in interface.inputs:
        if spec.name in stacked:
            flat.append(stacked[spec.name].to(getattr(torch, spec.dtype)))
        elif spec.name == mask_name and valid is not None:
            flat.append(valid.to(getattr(torch, spec.dtype)))
        else:
            flat.append(torch.ones_like(flat[0], dtype=getattr(torch, spec.dtype)))
    length = interface.length_of(documents[0].tensors) or 1
    return Batch(tuple(flat), valid, tokens, tuple(documents), length)


def batch_of_call(inputs: Sequence[torch.Tensor], rows: int, interface: Interface, name: str) -> Batch:
    """Return the batch that somebody else's call was.

    Args:
        inputs: flat inputs, in the program's order.
        rows: of the model's outputs.
        name: of every document, for error messages.
    """
    named = {spec.name: value for spec, value in zip(interface.inputs, inputs, strict=True)}
    return Batch(
        inputs=tuple(inputs),
        valid=None if interface.mask is None else inputs[interface.mask] != 0,
        tokens=None if interface.tokens is None else inputs[interface.tokens].long(),
        documents=(Document(name, {}),) * rows,
        length=interface.length_of({name: value[0] for name, value in named.items() if value.dim()}) or 1,
    )


def _pad(length: int, row: int, document: Document) -> int:
    most = length // _SHORTENED
    return 1 + int(document.digest[:8], 16) % most if row % 2 and most else 0


def _shapes(document: Document) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in document.tensors.items()}
