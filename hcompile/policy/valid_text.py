"""The text of a document of tokens: those that are no padding of its author's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface


def valid_places(document: Document, interface: Interface) -> torch.Tensor:
    """Return where a document holds text, int64 `[valid tokens]`."""
    name = interface.mask_input
    if name is None or name not in document.tensors:
        return torch.arange(len(document.tensors[interface.tokens_input]))
    return (document.tensors[name] != 0).nonzero().flatten()


def valid_text(document: Document, interface: Interface) -> list[int]:
    """Return the tokens of a document's text."""
    found: list[int] = document.tensors[interface.tokens_input][valid_places(document, interface)].tolist()
    return found


def with_text(document: Document, text: Sequence[int], interface: Interface) -> Document:
    """Return the document with another text of as many tokens, its padding in place."""
    name = interface.tokens_input
    ids = document.tensors[name].clone()
    ids[valid_places(document, interface)] = torch.tensor(text, dtype=ids.dtype)
    return replace(document, tensors={**document.tensors, name: ids})
