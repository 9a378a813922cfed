"""The model of another layout: what is trained and saved is one that transformers reads as Qwen3."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen3ForCausalLM

from benchmarks.other_model import QwenShape
from examples.corpus import standard_library
from examples.train_byte_llama import Recipe, save, train


def test_it_is_trained_and_read_again_in_its_layout(tmp_path: Path) -> None:
    shape = QwenShape(hidden_size=32, intermediate_size=32, num_hidden_layers=1, head_dim=8)
    recipe = Recipe(
        steps=2, lengths=(64, 128), shares=(0.5, 0.5), bytes_a_step=256, warmup_steps=1, shape=shape
    )
    model, log = train(b"".join(standard_library(8192)[:2]), recipe, torch.device("cpu"), lambda _: None)
    save(model, tmp_path, {"log": log})

    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)

    assert isinstance(again, Qwen3ForCausalLM)
    assert (again.config.num_attention_heads, again.config.num_key_value_heads) == (8, 2)
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name].bfloat16())
