"""Planted pairs: where they stand and what is asked for."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcompile.policy.metrics.planting import DISTANCES, MOST_PAIRS, VALUE_LETTERS, plant

PAIR = re.compile(rb"\n(?:K_([a-z]{4}) = |assert K_([a-z]{4}) == )'([a-z]{6})'\n")


def words(text: bytes) -> list[int]:
    """An encoder whose tokens are pairs of bytes, so that letters fall into tokens as they happen to stand."""
    return [int.from_bytes(text[at : at + 2]) for at in range(0, len(text), 2)]


@given(st.integers(0, 3000), st.integers(0, 2**32))
def test_each_value_is_defined_once_and_asked_for_once(length: int, seed: int) -> None:
    planted, spans = plant([1] * length, list, random.Random(seed))
    assert len(planted) == length
    defined: dict[bytes, tuple[int, bytes, int]] = {}
    asked: dict[bytes, tuple[int, bytes, int]] = {}
    for match in PAIR.finditer(bytes(planted)):
        (asked if match[2] else defined)[match[1] or match[2]] = (match.start(), match[3], match.start(3))
    assert defined.keys() == asked.keys() and len(spans) == len(asked) <= MOST_PAIRS
    assert sorted((at, at + VALUE_LETTERS) for _, _, at in asked.values()) == list(spans)
    for key, (start, value, _) in defined.items():
        assert asked[key][1] == value
        assert asked[key][0] - start in [int(share * length) for share in DISTANCES]
    assert bool(spans) or length < 500


def test_all_distances_are_planted_in_a_long_document() -> None:
    planted, spans = plant([1] * 16384, list, random.Random(0))
    starts = [(match[1] or match[2], match.start()) for match in PAIR.finditer(bytes(planted))]
    apart = [
        second - first for key, first in starts for other, second in starts if other == key and second > first
    ]
    assert len(spans) == MOST_PAIRS and set(apart) == {int(share * 16384) for share in DISTANCES}


@pytest.mark.parametrize("encode", [list, words], ids=["bytes", "words"])
def test_the_ids_asked_for_stand_in_the_definition_too(encode: object) -> None:
    assert callable(encode)
    planted, spans = plant([0] * 4000, encode, random.Random(1))
    assert spans
    for start, stop in spans:
        value = planted[start:stop]
        places = [at for at in range(len(planted)) if planted[at : at + len(value)] == value]
        assert len(places) == 2 and places[1] == start


def test_equal_seeds_plant_equally_and_others_do_not() -> None:
    first, again, other = (plant([0] * 2000, list, random.Random(seed)) for seed in (1, 1, 2))
    assert first == again != other
