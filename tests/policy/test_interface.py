"""Which inputs and outputs of a program the policy uses."""

from __future__ import annotations

import pytest
import torch

from hcompile.errors import UsageError
from hcompile.policy.interface import Interface
from hcompile.program import InputSpec
from tests.policy.tiny_programs import tiny_text

IDS = InputSpec("input_ids", "int64", ("b", "s"))
MASK = InputSpec("attention_mask", "int64", ("b", "s"), "ones")
PIXELS = InputSpec("pixel_values", "float32", ("b", 3, 8, 8))


def test_tokens_mask_and_logits_are_found_by_name() -> None:
    found = Interface.of(tiny_text())
    assert (found.tokens, found.mask, found.output, found.logits) == (0, 1, 0, True)


def test_logits_are_found_behind_other_outputs() -> None:
    program = tiny_text().replace(output_tree={"states": [0, 1], "logits": 2})
    assert Interface.of(program).output == 2


def test_hidden_states_are_no_logits() -> None:
    assert not Interface.of(tiny_text(logits=False)).logits


def test_a_nameless_output_may_be_logits() -> None:
    assert Interface.of(tiny_text().replace(output_tree=0)).logits


def test_fixed_sizes_are_the_exports() -> None:
    fixed = InputSpec("input_ids", "int64", (4, 128))
    found = Interface((fixed, MASK), 0, 1, 0, True)
    assert (found.fixed_rows, found.fixed_length) == (4, 128)
    assert Interface((IDS, MASK), 0, 1, 0, True).fixed_rows is None


def test_text_is_refused_for_a_model_that_takes_more() -> None:
    with pytest.raises(UsageError, match="pixel_values"):
        _ = Interface((IDS, MASK, PIXELS), 0, 1, 0, True).token_name
    with pytest.raises(UsageError, match="safetensors"):
        _ = Interface((PIXELS,), None, None, 0, False).token_name


def test_the_fixed_length_of_attention_counts_where_no_input_says_one() -> None:
    row = {"pixel_values": torch.ones(3, 8, 8)}
    assert Interface((PIXELS,), None, None, 0, False).length_of(row) is None
    assert Interface((PIXELS,), None, None, 0, False, positions=5).length_of(row) == 5
    ids = {"input_ids": torch.ones(7, dtype=torch.int64)}
    assert Interface((IDS, MASK), 0, 1, 0, True, positions=5).length_of(ids) == 7
