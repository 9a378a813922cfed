"""What a byte model can do, and which of its heads need the far past.

`python -m examples.evaluate examples/byte-llama` prints, as JSON, bits a byte and recall by distance on the
standard library: dense, with every layer cut to a window, and with one head at a time cut to a window.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import click
import torch
from torch import Tensor
from torch.nn import Module, functional
from transformers import LlamaForCausalLM

from examples.corpus import spread, standard_library
from examples.planted import plant_each, recall

LENGTH = 8192
DISTANCES = (256, 1024, 4096, 7000)
WINDOWS = (128, 512, 2048)
EVERYTHING = 2**30
"""A window that no document fills."""


def load(folder: Path) -> LlamaForCausalLM:
    """The model in float32, on the GPU if there is one."""
    model: Module = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return cast(LlamaForCausalLM, model.to("cuda" if torch.cuda.is_available() else "cpu"))


@lru_cache(maxsize=2)
def _mask(length: int, windows: tuple[int, ...], device: torch.device) -> Tensor:
    """bool [1, H, S, S]: query i sees key j if i - window < j <= i."""
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    window = torch.tensor(windows, device=device)[:, None, None]
    return ((distance >= 0) & (distance < window))[None]


@contextmanager
def windowed(model: LlamaForCausalLM, windows: Mapping[int, Sequence[int]]) -> Iterator[None]:
    """Inside, the query heads of the given layers see their last bytes: one window for all, or one each."""

    def cut(chosen: tuple[int, ...]) -> Callable[..., tuple[Any, Any]]:
        def hook(_layer: Module, args: tuple[Tensor], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            hidden = args[0]
            return args, {**kwargs, "attention_mask": _mask(hidden.shape[1], chosen, hidden.device)}

        return hook

    with ExitStack() as stack:
        for layer, chosen in windows.items():
            hook = cut(tuple(chosen))
            handle = model.model.layers[layer].register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        yield


def _log_probabilities(model: LlamaForCausalLM, text: bytes) -> Tensor:
    """Of every next byte: [S, 256]."""
    ids = torch.tensor([list(text)], device=model.device)
    return functional.log_softmax(model(input_ids=ids, use_cache=False).logits[0].float(), dim=-1)


@torch.inference_mode()
def bits_per_byte(model: LlamaForCausalLM, texts: Sequence[bytes]) -> float:
    """Mean over all bytes but the first of each text."""
    losses = []
    for text in texts:
        target = torch.tensor(list(text[1:]), device=model.device)
        losses.append(functional.nll_loss(_log_probabilities(model, text)[:-1], target).item())
    return sum(losses) / len(losses) / math.log(2)


@torch.inference_mode()
def head_divergence(model: LlamaForCausalLM, texts: Sequence[bytes], window: int) -> list[list[float]]:
    """KL(dense, one head cut to `window`), nats a byte, for each layer and query head."""
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    divergence = torch.zeros(layers, heads)
    for text in texts:
        dense = _log_probabilities(model, text)
        for layer in range(layers):
            for head in range(heads):
                cut = [window if other == head else EVERYTHING for other in range(heads)]
                with windowed(model, {layer: cut}):
                    hybrid = _log_probabilities(model, text)
                kl = functional.kl_div(hybrid, dense, reduction="batchmean", log_target=True)
                divergence[layer, head] += kl.item() / len(texts)
    return [[round(value, 6) for value in row] for row in divergence.tolist()]


def evaluate(model: LlamaForCausalLM, count: int = 64, head_count: int = 8) -> dict[str, Any]:
    """Figures on `count` files of the standard library, and by head on `head_count` of them.

    Each file gives its first `LENGTH` bytes; for recall, with two pairs planted at each distance.
    """
    files = spread(standard_library(LENGTH), count)
    texts = [data[:LENGTH] for data in files]
    documents = plant_each(files, DISTANCES * 2, LENGTH)

    def logits(ids: Tensor) -> Tensor:
        return cast(Tensor, model(input_ids=ids.to(model.device), use_cache=False).logits)

    def figures() -> dict[str, Any]:
        by_distance = recall(logits, documents)
        return {
            "bits_per_byte": round(bits_per_byte(model, texts), 4),
            "recall": {str(distance): round(share, 3) for distance, share in by_distance.items()},
        }

    pairs = sum(len(document.answers) for document in documents)
    result = {"length": LENGTH, "documents": count, "pairs": pairs, "dense": figures()}
    for window in WINDOWS:
        with windowed(model, dict.fromkeys(range(model.config.num_hidden_layers), (window,))):
            result[f"every_layer_window_{window}"] = figures()
    result["one_head_window_512_kl"] = head_divergence(model, spread(texts, head_count), 512)
    return result


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--documents", default=64, show_default=True, help="Standard library files to measure on.")
@click.option("--head-documents", default=8, show_default=True, help="Files to measure single heads on.")
def main(folder: Path, documents: int, head_documents: int) -> None:
    """Measure the byte model in FOLDER (float32)."""
    click.echo(json.dumps(evaluate(load(folder), documents, head_documents), indent=1))


if __name__ == "__main__":
    main()
