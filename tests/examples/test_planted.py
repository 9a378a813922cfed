"""Planted pairs: where they stand, and what counts as recalled."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from examples.planted import ASSERTION_BYTES, VALUE_LETTERS, VALUE_OFFSET, plant, plant_each, recall

LINES = b"".join(b"line %03d of some text\n" % number for number in range(400))
PLANTED = re.compile(rb"^(?:K_[a-z]{4} = |assert K_[a-z]{4} == )'[a-z]{6}'\n", re.M)


@given(st.lists(st.integers(ASSERTION_BYTES, 1900), max_size=8), st.integers(0, 2**32))
def test_planting_adds_whole_lines_and_changes_nothing_else(distances: list[int], seed: int) -> None:
    document = plant(LINES, distances, 2048, random.Random(seed))
    assert len(document.data) == 2048
    whole = document.data[: document.data.rfind(b"\n") + 1]
    assert LINES.startswith(PLANTED.sub(b"", whole))


@given(st.lists(st.integers(ASSERTION_BYTES, 1900), min_size=1, max_size=8), st.integers(0, 2**32))
def test_an_answer_points_at_the_value_its_definition_gives(distances: list[int], seed: int) -> None:
    document = plant(LINES, distances, 2048, random.Random(seed))
    for answer in document.answers:
        value = document.data[answer.start : answer.start + VALUE_LETTERS]
        definition = answer.start - VALUE_OFFSET - answer.distance
        assert document.data[definition:].startswith(b"K_")
        assert document.data[definition:].split(b"'")[1] == value


def test_pairs_stand_about_as_far_apart_as_asked() -> None:
    documents = plant_each([LINES] * 20, (256, 1024), 2048)
    answers = [answer for document in documents for answer in document.answers]
    assert len(answers) > 30
    assert all(abs(answer.distance - answer.nominal) < 80 for answer in answers)


def test_the_same_seed_plants_the_same_document() -> None:
    assert plant_each([LINES], (256,), 1024, seed=7) == plant_each([LINES], (256,), 1024, seed=7)
    assert plant_each([LINES], (256,), 1024, seed=7) != plant_each([LINES], (256,), 1024, seed=8)


def test_a_distance_beyond_the_document_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        plant(LINES, (1024,), 1024, random.Random(0))


def test_a_text_shorter_than_the_document_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter than the document"):
        plant(b"short\n", (256,), 1024, random.Random(0))


def oracle(reach: int) -> Callable[[Tensor], Tensor]:
    """A model that knows the next byte of the text it is given, but an assertion's only within `reach`."""

    def logits(ids: Tensor) -> Tensor:
        data = bytes(ids[0].tolist())
        known = torch.roll(ids, -1, dims=1)
        for found in re.finditer(rb"assert K_([a-z]{4}) == '", data):
            if found.start() - data.index(b"K_" + found[1]) > reach:
                known[0, found.end() + 2] = 0
        return functional.one_hot(known, 256).float()

    return logits


def test_recall_counts_pairs_by_distance_and_a_wrong_letter_loses_the_pair() -> None:
    documents = plant_each([LINES] * 8, (256, 1024), 2048)
    assert recall(oracle(reach=4096), documents) == {256: 1.0, 1024: 1.0}
    assert recall(oracle(reach=512), documents) == {256: 1.0, 1024: 0.0}
