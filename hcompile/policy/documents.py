"""Documents: the units that data is split and resampled by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """One row of the model's inputs.

    Attributes:
        name: where it comes from.
        tensors: input name to its row, without the batch dimension; token documents hold their ids `[S]` alone.
        origin: the file or record that it was cut from; documents of one origin may depend on each other.
            Its name where nothing else is given.
        unit: "whole" (it starts a file or record), "joined" (of several short ones) or "piece" (a later part of a
            long one, so that neighbours may depend on each other).
        asked: (first, last + 1) of the valid tokens that a metric asks for which made the document, none else.
    """

    name: str
    tensors: Mapping[str, torch.Tensor]
    unit: str = "whole"
    origin: str = ""
    asked: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "origin", self.origin or self.name)

    @property
    def digest(self) -> str:
        """The sha256 of the content, in which names of files play no part."""
        state = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            state.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
            state.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return state.hexdigest()


def cut(document: Document, length: int) -> Document:
    """Return the first `length` tokens of a document that holds nothing but their ids `[S]`."""
    ((name, ids),) = document.tensors.items()
    return replace(document, tensors={name: ids[:length].clone()})


def grouped(documents: Iterable[Document]) -> list[list[Document]]:
    """Return the documents of each origin, in the order in which origins come first."""
    origins: dict[str, list[Document]] = {}
    for document in documents:
        origins.setdefault(document.origin, []).append(document)
    return list(origins.values())


def data_digest(documents: Iterable[Document]) -> str:
    """Return the sha256 of the documents' content in their order."""
    return hashlib.sha256("".join(document.digest for document in documents).encode()).hexdigest()
