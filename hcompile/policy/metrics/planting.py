"""Planting pairs into token ids: a value is defined and, a known distance later, asked for again.

A pair is `K_abcd = 'efghij'` and `assert K_abcd == 'efghij'`, each on a line of its own, with letters drawn at random:
nothing but the definition tells the value, so a model predicts it only if it attends that far back. The text is encoded
in pieces, so that key and value have the same ids in both places whatever the tokenizer does.
"""

from __future__ import annotations

import random
from itertools import cycle, islice
from string import ascii_lowercase

from hcompile.policy.text import Encoder

KEY_LETTERS, VALUE_LETTERS = 4, 6

MOST_PAIRS = 48
"""Pairs of one document at most."""

_ROOM = 4
"""A pair's length, as often, is what there must be of a document for each pair."""

_TRIES = 100
"""Places that are tried for a pair, which may not overlap another one."""

DISTANCES = (1 / 8, 1 / 4, 1 / 2, 3 / 4)
"""From a definition to its assertion, as shares of the document, in turn."""


def plant(
    ids: list[int], encode: Encoder, rng: random.Random
) -> tuple[list[int], tuple[tuple[int, int], ...]]:
    """Return a document with pairs in the place of some of its tokens, and the spans of the values asked for, rising.

    A document that is too short for a pair is returned as it is, with no span.
    """
    planted, spans = list(ids), []
    taken = [False] * len(ids)
    # Lengths are those of one sample: letters of another key may fall into more or fewer tokens.
    definition, assertion, _ = _pair(encode, rng)
    wanted = min(MOST_PAIRS, len(ids) // (_ROOM * (len(definition) + len(assertion))))
    for share in islice(cycle(DISTANCES), wanted):
        definition, assertion, value = _pair(encode, rng)
        distance = int(share * len(ids))
        last = len(ids) - distance - len(assertion)
        if distance < len(definition) or last < 0:
            continue
        for start in (rng.randint(0, last) for _ in range(_TRIES)):
            places = [(start, definition), (start + distance, assertion)]
            if not any(any(taken[at : at + len(line)]) for at, line in places):
                for at, line in places:
                    planted[at : at + len(line)] = line
                    taken[at : at + len(line)] = [True] * len(line)
                spans.append((start + distance + value[0], start + distance + value[1]))
                break
    return planted, tuple(sorted(spans))


def _pair(encode: Encoder, rng: random.Random) -> tuple[list[int], list[int], tuple[int, int]]:
    """Return a definition, an assertion, and where in the assertion the value is."""
    key = encode(f"K_{''.join(rng.choices(ascii_lowercase, k=KEY_LETTERS))}".encode())
    value = encode("".join(rng.choices(ascii_lowercase, k=VALUE_LETTERS)).encode())
    end = [*encode(b"'"), *encode(b"\n")]
    definition = [*encode(b"\n"), *key, *encode(b" = '"), *value, *end]
    before = [*encode(b"\n"), *encode(b"assert "), *key, *encode(b" == '")]
    return definition, [*before, *value, *end], (len(before), len(before) + len(value))
