"""The training script, in sizes a CPU does in a moment."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from examples.corpus import standard_library
from examples.train_byte_llama import Batches, Recipe, Shape, save, train

TINY = Recipe(
    steps=2,
    lengths=(128, 256),
    shares=(0.5, 0.5),
    bytes_a_step=512,
    warmup_steps=1,
    shape=Shape(hidden_size=32, intermediate_size=32, num_hidden_layers=1, head_dim=8),
)


@pytest.fixture(scope="module")
def text() -> bytes:
    return b"".join(standard_library(8192)[:8])


def test_two_steps_train_a_model_that_loads_again(text: bytes, tmp_path: Path) -> None:
    stages: list[PreTrainedModel] = []
    model, log = train(text, TINY, torch.device("cpu"), stages.append)
    save(model, tmp_path, {"log": log})

    again = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    before = TINY.shape.build().state_dict()
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name].bfloat16())
        assert not torch.equal(model.state_dict()[name], before[name])
    assert [entry["length"] for entry in json.loads((tmp_path / "report.json").read_text())["log"]] == [
        128,
        256,
    ]
    assert stages == [model]


def test_the_seed_decides_every_batch(text: bytes) -> None:
    first, second = Batches(text, TINY), Batches(text, TINY)
    assert torch.equal(first[1], second[1])
    assert first[1].shape == (2, 257)
    assert not torch.equal(first[0], Batches(text, replace(TINY, seed=1))[0])


def test_sequences_grow_by_the_shares_and_the_rate_rises_then_falls() -> None:
    recipe = Recipe(steps=1000, warmup_steps=10)
    assert [recipe.length(step) for step in (0, 499, 500, 749, 750, 999)] == [
        1024,
        1024,
        4096,
        4096,
        8192,
        8192,
    ]
    assert recipe.rate(0) < 0.11
    assert recipe.rate(9) > 0.99
    assert recipe.rate(999) < 0.01


def test_a_recipe_whose_shares_do_not_add_up_is_refused() -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        Recipe(steps=2, shares=(0.5, 0.25, 0.2))


def test_a_text_shorter_than_a_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        train(b"short", TINY, torch.device("cpu"), lambda model: None)
