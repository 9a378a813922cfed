"""Documents longer than those that a plan was chosen for, of texts that its choice has not seen."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import islice

from hcompile.errors import UsageError
from hcompile.policy.calibration import Splits, distinct, text_documents
from hcompile.policy.certificate import LEAST_TO_CERTIFY
from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface
from hcompile.policy.sources import read_source
from hcompile.policy.statistics import independent
from hcompile.policy.text import Encoder

_LEAST = 2
"""Independent documents that a bound needs."""


def longer_documents(
    splits: Splits,
    interface: Interface,
    encode: Encoder,
    length: int,
    *,
    planned: int,
    count: int,
    seed: int,
) -> tuple[tuple[Document, ...], str]:
    """Cut documents from the certificate's source, and say what the user should know of them ("" for nothing).

    Only texts that are long enough are taken, none of them joined, and none that profile or repair have read a part of.

    Args:
        length, planned: tokens of a document, and of those in `splits`.
        count: as many at most.

    Raises:
        UsageError: the source has no text, or fewer than two independent documents that long.
    """
    items = read_source(splits.domain)
    random.Random(seed).shuffle(items)
    if not isinstance(items[0].read(), bytes):
        raise UsageError(
            f"--beyond {length}: {splits.domain} holds named inputs, which are as long as they are: only text is cut"
        )
    seen = (*splits.profile, *splits.repair)
    origins = {document.origin for document in seen}
    name = interface.token_name
    texts = text_documents(
        (item for item in items if item.name not in origins), name, encode, length, join=False
    )
    fresh = _unseen(texts, name, planned, {document.digest for document in seen})
    found = tuple(islice(distinct(fresh), count))
    if independent(found) < _LEAST:
        raise UsageError(
            f"--beyond {length}: {splits.domain} has {len(found)} documents of {length} tokens that the plan's choice "
            f"has not read, and {_LEAST} are needed: add longer texts, or name them with --verify"
        )
    if len(found) < LEAST_TO_CERTIFY:
        return found, (
            f"--beyond {length}: {splits.domain} has only {len(found)} unseen documents of {length} tokens; what they "
            f"lose is stated, but the certificate needs {LEAST_TO_CERTIFY} to cover them"
        )
    return found, ""


def _unseen(documents: Iterable[Document], name: str, planned: int, seen: set[str]) -> Iterator[Document]:
    """Leave out copies, under another name, of texts that were read.

    A text was read in parts of `planned` tokens from its start on, so a copy's longer document has them in the same
    places where `planned` divides its length, and the first one always.
    """
    copies: set[str] = set()
    for document in documents:
        parts = document.tensors[name].split(planned)
        if any(Document("", {name: part}).digest in seen for part in parts):
            copies.add(document.origin)
        if document.origin not in copies:
            yield document
