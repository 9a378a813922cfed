"""Small programs with raised attention, made the way users' models are: an nn.Module, exported and raised."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch.export import Dim

from hcompile.passes.raise_attention import raise_attention
from hcompile.passes.select import select
from hcompile.plan import Plan
from hcompile.program import Program

HIDDEN, Q_HEADS, KV_HEADS, HEAD = 32, 4, 2, 8


class Attention(torch.nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.q = torch.nn.Linear(HIDDEN, Q_HEADS * HEAD, bias=False)
        self.k = torch.nn.Linear(HIDDEN, KV_HEADS * HEAD, bias=False)
        self.v = torch.nn.Linear(HIDDEN, KV_HEADS * HEAD, bias=False)
        self.out = torch.nn.Linear(Q_HEADS * HEAD, HIDDEN, bias=False)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            layer(x).view(batch, length, -1, HEAD).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        mask = (valid != 0)[:, None, None, :]
        if self.causal:
            key = torch.arange(length)
            mask = mask & (key[None, :] <= key[:, None])
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        found: torch.Tensor = self.out(out.transpose(1, 2).reshape(batch, length, -1))
        return found


class TinyText(torch.nn.Module):
    """Two layers over token ids; returns logits, or hidden states."""

    def __init__(self, vocabulary: int, logits: bool, causal: bool) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(vocabulary, HIDDEN)
        self.layers = torch.nn.ModuleList([Attention(causal) for _ in range(2)])
        self.head = torch.nn.Linear(HIDDEN, vocabulary, bias=False)
        self.logits = logits

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.embed(input_ids)
        for layer in self.layers:
            x = x + layer(F.layer_norm(x, (HIDDEN,)), attention_mask)
        x = F.layer_norm(x, (HIDDEN,))
        return {"logits": self.head(x)} if self.logits else {"last_hidden_state": x}


@cache
def tiny_text(*, vocabulary: int = 256, logits: bool = True, causal: bool = True) -> Program:
    """Return a program of `input_ids` and `attention_mask`, both int64 `[B, S]`."""
    torch.manual_seed(0)
    model = TinyText(vocabulary, logits, causal).eval()
    with torch.no_grad():
        # Larger logits and sharper attention than at initialization, so that far tokens matter.
        for layer in model.layers:
            assert isinstance(layer, Attention)
            layer.q.weight *= 6
            layer.out.weight *= 4
        model.head.weight *= 2
    ids = torch.randint(0, vocabulary, (2, 24))
    sizes = {0: Dim("batch"), 1: Dim("length", max=4096)}
    exported = torch.export.export(
        model,
        (),
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
    )
    program = raise_attention(Program.from_exported(exported))
    assert len(program.sites) == 2, program.left
    return program


def run_plan(program: Program, plan: Plan, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Run a program eagerly under a plan, through the reference."""
    return select(program, plan).run(*inputs)
