"""Train the byte model of examples/byte-llama from nothing; its card there says how it went.

`python -m examples.train_byte_llama --out FOLDER`, with a GPU some minutes. Sequences grow from 1024 to 8192
bytes; in most of them pairs are planted (examples/planted.py), so that attention learns to look far back.
"""

from __future__ import annotations

import json
import math
import os
import platform
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from examples.corpus import folder, permissive_packages
from examples.evaluate import evaluate, load
from examples.planted import ASSERTION_BYTES, plant


@dataclass(frozen=True, slots=True)
class Shape:
    """The model: small enough to travel with the source, attention the larger part of a long prefill."""

    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    max_position_embeddings: int = 16384

    def build(self) -> PreTrainedModel:
        config = LlamaConfig(
            vocab_size=256,
            bos_token_id=None,  # ids are bytes, none of them special
            eos_token_id=None,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
            **asdict(self),
        )
        return LlamaForCausalLM(config)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: `shares[0]` of the steps on sequences of `lengths[0]` bytes, and so on."""

    steps: int
    lengths: tuple[int, ...] = (1024, 4096, 8192)
    shares: tuple[float, ...] = (0.5, 0.25, 0.25)
    bytes_a_step: int = 65536
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.1
    planted_share: float = 0.7
    bytes_a_pair: int = 256
    """A sequence holds at most one pair for so many bytes."""
    seed: int = 0
    shape: Shape = field(default_factory=Shape)

    def __post_init__(self) -> None:
        if len(self.lengths) != len(self.shares) or not math.isclose(sum(self.shares), 1):
            raise ValueError(f"shares {self.shares} must be one a length of {self.lengths} and add up to 1")
        if self.steps < 1 or self.bytes_a_step < max(self.lengths):
            raise ValueError("a recipe needs a step, and a step a sequence")

    def length(self, step: int) -> int:
        reached = 0.0
        for length, share in zip(self.lengths, self.shares, strict=True):
            reached += share
            if step < round(reached * self.steps):
                return length
        return self.lengths[-1]

    def rate(self, step: int) -> float:
        """Share of the learning rate: linear up, cosine down."""
        return min(1.0, (step + 1) / self.warmup_steps) * (1 + math.cos(math.pi * step / self.steps)) / 2


class Batches(Dataset[Tensor]):
    """Step -> uint8 [B, length + 1], a function of the step and the seed alone, whichever process asks."""

    def __init__(self, corpus: bytes, recipe: Recipe) -> None:
        self.corpus, self.recipe = corpus, recipe

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, step: int) -> Tensor:
        rng = random.Random(f"{self.recipe.seed}/{step}")
        length = self.recipe.length(step)
        rows = [self._sequence(length + 1, rng) for _ in range(self.recipe.bytes_a_step // length)]
        return torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).view(len(rows), length + 1)

    def _sequence(self, length: int, rng: random.Random) -> bytes:
        start = rng.randrange(len(self.corpus) - length)
        text = self.corpus[start : start + length]
        if rng.random() >= self.recipe.planted_share:
            return text
        longest = length - ASSERTION_BYTES
        pairs = rng.randint(1, max(1, length // self.recipe.bytes_a_pair))
        # near pairs teach the lookup, so they come more often: the square
        distances = [
            ASSERTION_BYTES + int((longest - ASSERTION_BYTES) * rng.random() ** 2) for _ in range(pairs)
        ]
        return plant(text, distances, length, rng).data


def _optimizer(model: PreTrainedModel, recipe: Recipe) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    gains = [p for p in model.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": gains, "weight_decay": 0.0}]
    fused = model.device.type == "cuda"
    return torch.optim.AdamW(
        groups, lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=fused
    )


def train(
    corpus: bytes, recipe: Recipe, device: torch.device, on_stage: Callable[[PreTrainedModel], None]
) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    """The trained model and its log; `on_stage` gets the model each time the sequences are about to grow.

    Raises: ValueError if the corpus is shorter than a sequence.
    """
    if len(corpus) <= max(recipe.lengths) + 1:
        raise ValueError(f"{len(corpus)} bytes of text are too few for sequences of {max(recipe.lengths)}")
    torch.manual_seed(recipe.seed)
    with device:
        model = recipe.shape.build().train()
    optimizer = _optimizer(model, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.rate)
    if device.type == "cuda":
        for layer in model.model.layers:  # layer by layer: compiled once, and the mask stays out of it
            layer.compile(dynamic=False)
    workers = min(12, os.cpu_count() or 1) if device.type == "cuda" else 0
    batches = DataLoader(Batches(corpus, recipe), batch_size=None, num_workers=workers)

    log: list[dict[str, float]] = []
    every = max(1, recipe.steps // 50)
    began, length = time.monotonic(), recipe.length(0)
    for step, batch in enumerate(batches):
        if recipe.length(step) != length:
            length = recipe.length(step)
            on_stage(model)
        ids = batch.to(device).long()
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            seconds = time.monotonic() - began
            bits = loss.item() / math.log(2)
            log.append({"step": step + 1, "length": length, "bits": round(bits, 4), "s": round(seconds, 1)})
            click.echo(
                f"step {step + 1:6} length {length:5} {bits:.4f} bits a byte {seconds:6.1f} s", err=True
            )
    return model, log


def save(model: PreTrainedModel, out: Path, report: dict[str, Any]) -> None:
    """Config, report and weights, in bfloat16, into `out`."""
    weights = {name: weight.bfloat16() for name, weight in model.model.state_dict(prefix="model.").items()}
    config = type(model.config)(
        **{**model.config.to_dict(), "dtype": "bfloat16", "architectures": [type(model).__name__]}
    )
    out.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(out)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")


def train_into(out: Path, recipe: Recipe, data: Path | None) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Train on a folder's Python source, None for permissively licensed packages; save, and return model and report."""
    corpus, sources = (folder(data), []) if data else permissive_packages()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report: dict[str, Any] = {
        "recipe": asdict(recipe),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "corpus_bytes": len(corpus),
        "sources": [asdict(source) for source in sources],
    }
    click.echo(f"{len(corpus)} bytes of {len(sources) or 'your'} packages", err=True)
    model, report["log"] = train(corpus, recipe, device, lambda reached: save(reached, out, report))
    save(model, out, report)
    return model, report


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--steps", default=15500, show_default=True, help="Steps of 65536 bytes each.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of Python source to train on  [default: this interpreter's permissively licensed packages]",
)
def main(out: Path, steps: int, seed: int, data: Path | None) -> None:
    """Train, save and measure the byte model."""
    model, report = train_into(out, Recipe(steps=steps, seed=seed), data)
    report["standard_library"] = evaluate(load(out))
    save(model, out, report)
    click.echo(json.dumps(report["standard_library"]))


if __name__ == "__main__":
    main()
