"""Calibration data: a source becomes documents of one length, and splits that share no document."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice, pairwise

import torch

from hcompile.errors import UsageError
from hcompile.policy.certificate import LEAST_TO_CERTIFY
from hcompile.policy.documents import Document, cut, data_digest, grouped
from hcompile.policy.interface import Interface
from hcompile.policy.sources import Item, read_source
from hcompile.policy.text import Encoder

_SEPARATOR = b"\n\n"


@dataclass(frozen=True, slots=True)
class Counts:
    """Documents for each use; `fit` are those that projections are refitted to beside the profile's."""

    profile: int = 6
    repair: int = 24
    certify: int = 48
    fit: int = 0

    def __post_init__(self) -> None:
        if min(self.profile, self.repair) < 1 or self.certify < LEAST_TO_CERTIFY:
            raise UsageError(
                f"documents {self.profile},{self.repair},{self.certify}: profile and repair take at least 1 document, "
                f"certify at least {LEAST_TO_CERTIFY}"
            )

    @property
    def total(self) -> int:
        return self.profile + self.repair + self.certify + self.fit

    def within(self, available: int) -> Counts | None:
        """Return counts of the same proportions that `available` documents suffice for, None when they are too few.

        Documents to fit to are the first to be done without.
        """
        if available >= self.total:
            return self
        certify = max(LEAST_TO_CERTIFY, available * self.certify // self.total)
        profile = max(_LEAST.profile, (available - certify) * self.profile // (self.total - self.certify))
        rest = available - certify - profile
        fit = max(0, min(rest * self.fit // (self.repair + self.fit), rest - _LEAST.repair))
        repair = rest - fit
        return Counts(profile, repair, certify, fit) if repair >= _LEAST.repair else None


_LEAST = Counts(profile=4, repair=12, certify=LEAST_TO_CERTIFY)


@dataclass(frozen=True, slots=True)
class Splits:
    """Documents for profiling, repairing, certifying and fitting.

    Attributes:
        source: what profile and repair were taken from; `domain` is what certify was taken from.
    """

    profile: tuple[Document, ...]
    repair: tuple[Document, ...]
    certify: tuple[Document, ...]
    source: str
    domain: str
    fit: tuple[Document, ...] = ()

    @property
    def taught(self) -> tuple[Document, ...]:
        """What weights and features are fitted to: documents that neither repair nor certify."""
        return (*self.profile, *self.fit)

    @property
    def digest(self) -> str:
        """The sha256 of what the choice of a plan rests on: all documents but those that certify."""
        return data_digest((*self.profile, *self.repair, *self.fit))


def load_splits(
    calib: str,
    interface: Interface,
    encode: Encoder | None,
    length: int,
    *,
    verify: str | None = None,
    counts: Counts | None = None,
    seed: int = 0,
) -> Splits:
    """Read a source and split it.

    Args:
        calib: the source, see `read_source`.
        encode: how text becomes ids; None for models that take no text.
        length: tokens of a document. Named inputs keep their own shapes.
        verify: another source, for certifying only.

    Raises:
        UsageError: the source is missing, does not fit the model, or holds too few documents of this length.
    """
    counts = Counts() if counts is None else counts
    wanted = counts.total if verify is None else counts.total - counts.certify
    documents = gather(read_source(calib), interface, encode, length, wanted, seed)
    if verify is not None:
        chosen = documents
        seen = {document.digest for document in chosen}
        checked = gather(read_source(verify), interface, encode, length, counts.certify + len(seen), seed)
        fresh = tuple(document for document in checked if document.digest not in seen)[: counts.certify]
        if len(fresh) < LEAST_TO_CERTIFY:
            raise _too_few(verify, length, len(fresh), LEAST_TO_CERTIFY)
        if len(chosen) < _LEAST.profile + _LEAST.repair:
            raise _too_few(calib, length, len(chosen), _LEAST.profile + _LEAST.repair)
        all_counts = replace(counts, certify=LEAST_TO_CERTIFY).within(len(chosen) + LEAST_TO_CERTIFY)
        assert all_counts is not None  # the least that there are were just seen to suffice
        first, second = all_counts.profile, all_counts.profile + all_counts.repair
        return Splits(chosen[:first], chosen[first:second], fresh, calib, verify, chosen[second:])
    fitting = counts.within(len(documents))
    if fitting is None:
        raise _too_few(calib, length, len(documents), _LEAST.total)
    profile, repair, certify, fit = _apart(documents, fitting)
    return Splits(profile, repair, certify, calib, calib, fit)


def beginnings(splits: Splits, interface: Interface, length: int) -> Splits:
    """Return the splits with the first `length` tokens of every text that profiles or repairs; others stay."""

    def beginning(document: Document) -> Document:
        return cut(document, length) if interface.is_text(document.tensors) else document

    profile, repair = (tuple(map(beginning, part)) for part in (splits.profile, splits.repair))
    return replace(splits, profile=profile, repair=repair)


def _apart(documents: Sequence[Document], counts: Counts) -> list[tuple[Document, ...]]:
    """Return documents for profile, repair, certify and fit, all documents of one origin in the same split.

    Where there are too few origins for that, such as one long text, splits are neighbouring parts of the data.
    """
    wanted = (counts.profile, counts.repair, counts.certify, counts.fit)
    groups = grouped(documents)
    if len(groups) < len(documents):
        splits: tuple[list[Document], ...] = ([], [], [], [])
        for group in sorted(groups, key=len, reverse=True):
            lacks = [count - len(split) for count, split in zip(wanted, splits, strict=True)]
            splits[lacks.index(max(lacks))].extend(group[: max(lacks)])
        profile, repair, certify, _ = splits
        if len(profile) >= _LEAST.profile and len(repair) >= _LEAST.repair and len(certify) >= _LEAST.certify:
            return [tuple(split) for split in splits]
        documents = [document for group in groups for document in group]
    ends = [*accumulate(wanted, initial=0)]
    return [tuple(documents[first:last]) for first, last in pairwise(ends)]


def sample_splits(flat_inputs: Sequence[torch.Tensor], interface: Interface, source: str) -> Splits:
    """Return the rows of a model's own sample inputs as documents that serve for everything: no held-out data."""
    rows = flat_inputs[0].shape[0]
    names = [spec.name for spec in interface.inputs]
    documents = tuple(
        Document(
            f"{source}:{row}", {name: value[row] for name, value in zip(names, flat_inputs, strict=True)}
        )
        for row in range(rows)
    )
    return Splits(documents, documents, documents, source, source)


def gather(
    items: Sequence[Item], interface: Interface, encode: Encoder | None, length: int, count: int, seed: int
) -> tuple[Document, ...]:
    """Return up to `count` documents, in a random order that the seed decides.

    Text gives the first `length` tokens of each entry that has as many. Where these are too few, short entries are
    joined, and where that is too little, the rest of long ones is cut into pieces, one of each entry in turn.
    Entries of equal content count once.
    """
    shuffled = list(items)
    random.Random(seed).shuffle(shuffled)
    if isinstance(shuffled[0].read(), bytes):
        if encode is None:
            raise UsageError("the model takes no text: calibrate with safetensors of its inputs")
        documents = text_documents(shuffled, interface.token_name, encode, length)
    else:
        documents = (_named_inputs(item, interface) for item in shuffled)
    return tuple(islice(distinct(documents), count))


def text_documents(
    items: Iterable[Item], name: str, encode: Encoder, length: int, *, join: bool = True
) -> Iterator[Document]:
    """Yield documents of `length` tokens in the order that `gather` describes; short entries only with `join`."""
    short: list[tuple[str, list[int]]] = []
    rest: list[tuple[str, list[int]]] = []
    for item in items:
        content = item.read()
        if not isinstance(content, bytes):
            raise UsageError(f"calibration data mixes text with named inputs ({item.name}): give one kind")
        ids = encode(content)
        if len(ids) < length:
            if join:
                short.append((item.name, ids))
            continue
        yield _tokens(item.name, name, ids[:length], "whole")
        rest.append((item.name, ids[length:]))
    separator = encode(_SEPARATOR)
    joined: list[int] = []
    for origin, ids in short:
        joined += [*separator, *ids] if joined and ids else ids
        if len(joined) >= length:
            yield _tokens(origin, name, joined[:length], "joined")
            joined = []
    start = 0
    while rest := [(origin, ids) for origin, ids in rest if len(ids) >= start + length]:
        for origin, ids in rest:
            yield _tokens(f"{origin}+{start + length}", name, ids[start : start + length], "piece", origin)
        start += length


def _tokens(name: str, column: str, ids: list[int], unit: str, origin: str = "") -> Document:
    return Document(name, {column: torch.tensor(ids, dtype=torch.int64)}, unit, origin)


def _named_inputs(item: Item, interface: Interface) -> Document:
    content = item.read()
    if isinstance(content, bytes):
        raise UsageError(f"calibration data mixes text with named inputs ({item.name}): give one kind")
    specs = {spec.name: spec for spec in interface.inputs}
    missing = [name for name, spec in specs.items() if spec.default is None and name not in content]
    unknown = sorted(set(content) - set(specs))
    if missing or unknown:
        raise UsageError(
            f"{item.name}: the model takes {', '.join(specs)}; missing {missing}, unknown {unknown}"
        )
    for name, row in content.items():
        spec = specs[name]
        dtype = str(row.dtype).removeprefix("torch.")
        fits = len(spec.shape) == row.dim() + 1 and all(
            wanted == size or not isinstance(wanted, int)
            for wanted, size in zip(spec.shape[1:], row.shape, strict=True)
        )
        if not fits or dtype != spec.dtype:
            raise UsageError(
                f"{item.name}: a row of {name} is {dtype} {list(row.shape)}, "
                f"the model takes {spec.dtype} {list(spec.shape[1:])}"
            )
    return Document(item.name, content)


def distinct(documents: Iterable[Document]) -> Iterator[Document]:
    """Yield the documents, those of equal content once."""
    seen: set[str] = set()
    for document in documents:
        digest = document.digest
        if digest not in seen:
            seen.add(digest)
            yield document


def _too_few(source: str, length: int, found: int, wanted: int) -> UsageError:
    return UsageError(
        f"{source} gives {found} different documents of {length} tokens and {wanted} are needed: "
        "add text, or choose a shorter length"
    )
