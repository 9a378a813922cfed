"""A byte model of another layout than those that hcompile was made with, trained from nothing, to test its claims on.

    python -m benchmarks.other_model --out FOLDER      # a GPU, some four minutes
    hcompile optimize FOLDER --target cuda --dtype bfloat16 --calib stdlib --lengths 8192 --budget kl=0.003 ...
    python -m benchmarks.quality MODEL.hcm

transformers' Qwen3: queries and keys are normalized, heads of 128, four query heads for each KV head, six layers. It is
trained as `examples/byte-llama` was, on the permissively licensed packages beside the interpreter and without the
standard library, with pairs planted far apart.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import click
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from examples.train_byte_llama import Recipe, Shape, train_into


@dataclass(frozen=True, slots=True)
class QwenShape(Shape):
    """As many heads as llama-code has, in another layout."""

    hidden_size: int = 384
    intermediate_size: int = 1024
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    head_dim: int = 128

    def build(self) -> PreTrainedModel:
        rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
        return Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=256,
                bos_token_id=None,
                eos_token_id=None,
                tie_word_embeddings=True,
                rope_parameters=rope,
                **asdict(self),
            )
        )


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--steps", default=4000, show_default=True, help="Steps of 65536 bytes each.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--data", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Python source instead."
)
def main(out: Path, steps: int, seed: int, data: Path | None) -> None:
    """Train a model of another layout, and save it as transformers does."""
    train_into(out, Recipe(steps=steps, seed=seed, shape=QwenShape()), data)


if __name__ == "__main__":
    main()
