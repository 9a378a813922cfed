"""A model of one layer over bytes, made the way a user's module is, and a request for it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hcompile.pipeline.request import OptimizeRequest

HEADS, HEAD_DIM, WIDTH = 4, 32, 32
LENGTH = 1024  # Long enough that windows are faster on any machine, however busy.


class Reader(nn.Module):
    """One causal layer over bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * HEADS * HEAD_DIM)
        self.out = nn.Linear(HEADS * HEAD_DIM, 256)

    def forward(self, ids: Tensor) -> Tensor:
        q, k, v = self.qkv(self.embed(ids)).unflatten(-1, (3, HEADS, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        logits: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return logits


def example() -> tuple[tuple[Tensor], dict[str, Tensor]]:
    return (torch.arange(3 * 41).reshape(3, 41) % 256,), {}


def write_texts(folder: Path, count: int, length: int) -> None:
    """Write text.jsonl, with texts of this many random letters."""
    rng = random.Random(0)
    with (folder / "text.jsonl").open("w") as text:
        for _ in range(count):
            text.write(json.dumps({"text": "".join(rng.choices("abcdefgh \n", k=length))}) + "\n")


def request_for(output: Path, home: Path) -> OptimizeRequest:
    calib = str(home / "text.jsonl")
    return OptimizeRequest("reader", output, budget="kl=0.5", calib=calib, lengths=(LENGTH,), trials=2)
