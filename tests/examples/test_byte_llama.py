"""The model that travels with the source: small, loadable, and able to look far back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from examples.corpus import spread, standard_library
from examples.evaluate import bits_per_byte, head_divergence, windowed
from examples.planted import Document, plant_each, recall

FOLDER = Path(__file__).parents[2] / "examples" / "byte-llama"


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return plant_each(spread(standard_library(8192), 3), (256, 1024) * 4, 2048)


def recall_of(model: LlamaForCausalLM, documents: list[Document]) -> dict[int, float]:
    def logits(ids: Tensor) -> Tensor:
        out: Tensor = model(input_ids=ids, use_cache=False).logits
        return out

    return recall(logits, documents)


def test_the_folder_stays_within_eight_megabytes() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 8_000_000


def test_pairs_near_and_far_are_recalled(model: LlamaForCausalLM, documents: list[Document]) -> None:
    shares = recall_of(model, documents)
    assert shares.keys() == {256, 1024}
    assert min(shares.values()) >= 0.9


@pytest.mark.slow
def test_a_window_on_every_layer_loses_the_pairs_beyond_it(
    model: LlamaForCausalLM, documents: list[Document]
) -> None:
    with windowed(model, dict.fromkeys(range(model.config.num_hidden_layers), (512,))):
        cut = recall_of(model, documents)
    assert cut[256] >= 0.9
    assert cut[1024] == 0.0
    assert recall_of(model, documents)[1024] >= 0.9  # and outside the block the model is whole again


@pytest.mark.slow
def test_code_it_has_not_seen_costs_about_a_bit_a_byte(model: LlamaForCausalLM) -> None:
    texts = [text[:1024] for text in spread(standard_library(8192), 4)]
    assert bits_per_byte(model, texts) < 1.5


@pytest.mark.slow
def test_few_heads_need_more_than_a_window(model: LlamaForCausalLM) -> None:
    (text,) = spread(standard_library(8192), 1)
    divergence = [kl for row in head_divergence(model, [text[:512]], 64) for kl in row]
    assert max(divergence) > 10 * sorted(divergence)[len(divergence) // 2]
