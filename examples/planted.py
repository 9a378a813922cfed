"""Planted pairs: text in which a model must look back a known distance, and the share it gets right.

A pair is a definition `K_abcd = 'efghij'` and, some distance later, `assert K_abcd == 'efghij'`, each on a
line of its own. Nothing but the definition tells the six letters of the assertion, so a model predicts them
only if it attends that far back. Letters are ASCII bytes: for models whose tokens are bytes.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_lowercase

import torch
from torch import Tensor

KEY_LETTERS = 4
VALUE_LETTERS = 6
DEFINITION = "K_{key} = '{value}'\n"
ASSERTION = "assert K_{key} == '{value}'\n"
ASSERTION_BYTES = len(ASSERTION.format(key="k" * KEY_LETTERS, value="v" * VALUE_LETTERS))
VALUE_OFFSET = ASSERTION_BYTES - len("'\n") - VALUE_LETTERS
"""Bytes between the start of an assertion and its value."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Where a document repeats a value: `data[start : start + VALUE_LETTERS]`."""

    start: int
    nominal: int
    """The distance asked for, in bytes; reports are grouped by it."""
    distance: int
    """Bytes from the start of the definition to the start of the assertion as planted: line starts only
    come where the text has them, so it differs from `nominal` by up to about a line."""


@dataclass(frozen=True, slots=True)
class Document:
    data: bytes
    answers: tuple[Answer, ...]


def _letters(count: int, rng: random.Random) -> str:
    return "".join(rng.choices(ascii_lowercase, k=count))


def plant(text: bytes, distances: Sequence[int], length: int, rng: random.Random) -> Document:
    """Cut `text` to `length` bytes with one pair planted for each of `distances`, at line starts.

    A definition stands anywhere that leaves room for its assertion. Pairs whose assertion the text gives no
    line start for are left out of the answers.

    Raises: ValueError if a distance does not fit into `length` bytes or `text` is shorter than `length`.
    """
    if len(text) < length:
        raise ValueError(f"text of {len(text)} bytes is shorter than the document of {length}")
    keys: dict[str, int] = {}
    lines: list[tuple[int, str, str]] = []
    for nominal in distances:
        room = length - nominal - ASSERTION_BYTES
        if nominal < ASSERTION_BYTES or room < 0:
            raise ValueError(f"a pair {nominal} bytes apart does not fit into a document of {length} bytes")
        key = _letters(KEY_LETTERS, rng)
        while key in keys:
            key = _letters(KEY_LETTERS, rng)
        keys[key] = nominal
        value = _letters(VALUE_LETTERS, rng)
        definition = rng.randint(0, room)
        lines.append((definition, key, DEFINITION.format(key=key, value=value)))
        lines.append((definition + nominal, key, ASSERTION.format(key=key, value=value)))
    lines.sort()

    pieces: list[bytes] = []
    taken = written = 0  # bytes of text copied so far, bytes of the document so far
    defined: dict[str, int] = {}
    answers: list[Answer] = []
    for target, key, line in lines:
        ahead = max(taken, target - (written - taken))
        line_start = text.find(b"\n", ahead - 1) + 1 if ahead else 0
        if ahead and not line_start:
            break
        pieces += (text[taken:line_start], line.encode())
        at = written + line_start - taken
        written, taken = at + len(line), line_start
        if written > length:
            break
        if key in defined:
            answers.append(Answer(at + VALUE_OFFSET, keys[key], at - defined[key]))
        else:
            defined[key] = at
    pieces.append(text[taken : taken + max(0, length - written)])
    return Document(b"".join(pieces)[:length], tuple(answers))


def plant_each(
    texts: Sequence[bytes], distances: Sequence[int], length: int, seed: int = 0
) -> list[Document]:
    """One document of `length` bytes from each text, with a pair for each of `distances`."""
    return [plant(text, distances, length, random.Random(f"{seed}/{i}")) for i, text in enumerate(texts)]


@torch.inference_mode()
def recall(logits: Callable[[Tensor], Tensor], documents: Sequence[Document]) -> dict[int, float]:
    """Share of pairs recalled, by nominal distance.

    `logits` maps byte ids, int64 [1, S], to next-byte logits [1, S, V]. A pair counts as recalled if each of
    its value bytes, given the true bytes before it, has the highest logit.
    """
    hits: defaultdict[int, list[bool]] = defaultdict(list)
    for document in documents:
        if not document.answers:
            continue
        ids = torch.tensor([list(document.data)])
        predicted = logits(ids)[0].argmax(-1).cpu()
        for answer in document.answers:
            value = slice(answer.start, answer.start + VALUE_LETTERS)
            before = slice(value.start - 1, value.stop - 1)
            hits[answer.nominal].append(torch.equal(predicted[before], ids[0, value]))
    return {nominal: sum(outcomes) / len(outcomes) for nominal, outcomes in sorted(hits.items())}
