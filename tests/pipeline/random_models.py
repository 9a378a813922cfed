"""Small random models of every shape that the compiler raises: what a seed decides."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hcompile.patterns import Dense, Local, Pattern
from hcompile.plan import Plan, own_pattern
from hcompile.program import Program
from hcompile.site import Site
from tests.pipeline.rounding import widen

VOCABULARY = 64
LONGEST = 256
EXAMPLE = (3, 37)


@dataclass(frozen=True)
class Shape:
    """What a model is like.

    Attributes:
        group: query heads of a KV head.
        window: keys that a query sees to a side, itself included; None for all.
        padded: the model takes a padding mask.
        rotary: positions rotate queries and keys; else they have a table.
    """

    depth: int
    kv_heads: int
    group: int
    head_dim: int
    causal: bool
    window: int | None
    padded: bool
    rotary: bool

    @classmethod
    def of(cls, seed: int) -> Shape:
        rng = random.Random(seed)
        return cls(
            depth=rng.randint(1, 4),
            kv_heads=rng.choice((1, 2, 3)),
            group=rng.choice((1, 2, 4)),
            head_dim=rng.choice((8, 16, 32, 64)),
            causal=rng.random() < 0.5,
            window=rng.choice((None, None, 72, 90)),
            padded=rng.random() < 0.5,
            rotary=rng.random() < 0.5,
        )

    @property
    def width(self) -> int:
        return self.kv_heads * self.group * self.head_dim


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, kv_width = shape.width, shape.kv_heads * shape.head_dim
        self.shape = shape
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v = (
            nn.Linear(width, width),
            nn.Linear(width, kv_width),
            nn.Linear(width, kv_width),
        )
        self.o = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        shape, normed = self.shape, self.first(x)
        q, k, v = (
            projection(normed).unflatten(-1, (-1, shape.head_dim)).transpose(1, 2)
            for projection in (self.q, self.k, self.v)
        )
        if turn is not None:
            q, k = (_turned(part, *turn) for part in (q, k))
        causal = shape.causal and mask is None
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=shape.group > 1
        )
        x = x + self.o(out.transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.wide(self.second(x))))  # type: ignore[no-any-return]


class RandomModel(nn.Module):
    """A transformer over ids `[B, S]`: logits where it is causal, else vectors."""

    def __init__(self, shape: Shape, seed: int) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(VOCABULARY, shape.width)
        self.table = None if shape.rotary else nn.Embedding(LONGEST, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, VOCABULARY) if shape.causal else nn.Identity()
        widen(self, seed)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        shape, position = self.shape, torch.arange(input_ids.shape[1])
        x = self.embed(input_ids)
        if self.table is not None:
            x = x + self.table(position)
        turn = _turn(position, shape.head_dim) if shape.rotary else None
        mask = None
        if shape.window is not None or attention_mask is not None:
            query, key = position[:, None], position[None, :]
            mask = key <= query if shape.causal else key >= 0 * query
            if shape.window is not None:
                mask = mask & ((query - key).abs() < shape.window)
            if attention_mask is not None:
                mask = mask[None, None] & (attention_mask != 0)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask, turn)
        return {"logits" if shape.causal else "last_hidden_state": self.head(self.norm(x))}


def model_of(seed: int) -> RandomModel:
    return RandomModel(Shape.of(seed), seed).eval()


def inputs_of(shape: Shape, seed: int, batch: int, length: int) -> dict[str, Tensor]:
    """Return a call's inputs; where there is padding it is on the left of the first row and the right of the last."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (batch, length), generator=generator)
    if not shape.padded:
        return {"input_ids": ids}
    mask = torch.ones_like(ids)
    mask[0, : length // 5] = 0
    mask[-1, length - length // 3 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def plan_of(program: Program, seed: int) -> Plan:
    """Return a plan that gives each query head a pattern of its own, the first of each site a local one."""
    rng = random.Random(seed)
    return Plan.of(
        {
            site.name: tuple(_pattern(site, rng, head == 0) for head in range(site.q_heads))
            for site in program.sites
        }
    )


def _pattern(site: Site, rng: random.Random, local: bool) -> Pattern:
    own = own_pattern(site)
    if not local and rng.random() < 0.4:
        return own
    if isinstance(own, Dense):
        return Local(rng.randint(1, 40), rng.choice((0, 1, 4, 16)), widening=rng.choice((0, 0, 20, 60)))
    return Local(rng.randint(1, own.params()[0] - 1))


def _turn(position: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine `[S, D]` of rotary positions."""
    rates = 100.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
    angles = (position[:, None] * rates).repeat(1, 2)
    return angles.cos(), angles.sin()


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), dim=-1) * sine
