"""Decomposed attention is found by its skeleton and raised where what lies between is scaling and masking."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from hcompile.left import LeftDense
from hcompile.passes.findings import Finding, findings
from hcompile.passes.raise_attention import raise_attention
from hcompile.passes.verify import verify_rewrite
from hcompile.program import Program
from tests.passes.attention_models import (
    HEAD_DIM,
    HEADS,
    WIDTH,
    Attend,
    exported,
    hidden,
    operators,
    reasons,
    stacked,
)

_LONGEST = 63


def _later(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).triu(1)


def _filled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.transpose(-1, -2)) / math.sqrt(HEAD_DIM)
    return scores.masked_fill(_later(q.shape[2]), -torch.inf).softmax(-1) @ v


def _scaled_before(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q * HEAD_DIM**-0.25) @ (k * HEAD_DIM**-0.25).permute(0, 1, 3, 2)
    return (
        torch.softmax(scores + torch.full((q.shape[2],) * 2, -torch.inf).triu(1), -1, dtype=torch.float32) @ v
    )


def _chosen(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2) * 0.3
    return torch.where(_later(q.shape[2]), -1e9, scores).softmax(-1) @ v


def _zeroed_after(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = _later(q.shape[2])
    weights = (q @ k.transpose(-1, -2)).masked_fill(mask, torch.finfo(q.dtype).min).softmax(-1)
    return weights.masked_fill(mask, 0.0) @ v


def _stable(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2)
    return (scores - scores.amax(-1, keepdim=True)).softmax(-1) @ v


def _einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * 0.3
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v)


def _rows_merged(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    batch, _, length, _ = q.shape
    q, k, v = (operand.reshape(-1, length, HEAD_DIM) for operand in (q, k, v))
    scores = torch.baddbmm(_later(length) * -1e4, q, k.transpose(1, 2), alpha=0.3)
    return torch.bmm(scores.softmax(-1), v).view(batch, HEADS, length, HEAD_DIM)


UNDERSTOOD: dict[str, tuple[Attend, str, float]] = {
    "masked_fill": (_filled, "causal", HEAD_DIM**-0.5),
    "scaled before": (_scaled_before, "causal", HEAD_DIM**-0.5),
    "where": (_chosen, "causal", 0.3),
    "zeroed after": (_zeroed_after, "causal", 1.0),
    "largest subtracted": (_stable, "bidirectional", 1.0),
    "einsum": (_einsum, "bidirectional", 0.3),
    "baddbmm": (_rows_merged, "causal", 0.3),
}


@pytest.fixture(scope="module")
def understood() -> tuple[Program, Program]:
    original = exported(
        stacked(*(attend for attend, _, _ in UNDERSTOOD.values())), hidden(2, 11), longest=_LONGEST
    )
    return original, raise_attention(original)


@pytest.mark.parametrize(("place", "name"), list(enumerate(UNDERSTOOD)))
def test_a_decomposed_attention_is_one_node(
    understood: tuple[Program, Program], place: int, name: str
) -> None:
    _, program = understood
    _, mask, scale = UNDERSTOOD[name]
    assert findings(program)[place] == Finding(str(place), "eager", HEADS, HEADS, HEAD_DIM, mask, guard=None)
    assert program.sites[place].scale == pytest.approx(scale, rel=1e-12)


def test_no_softmax_and_no_product_is_left(understood: tuple[Program, Program]) -> None:
    _, program = understood
    assert not {"softmax", "matmul", "bmm", "baddbmm", "einsum", "masked_fill"} & set(operators(program))


@pytest.mark.parametrize(("batch", "length"), [(3, 17), (1, 1), (2, _LONGEST)])
def test_the_raised_graph_computes_the_same(
    understood: tuple[Program, Program], batch: int, length: int
) -> None:
    verify_rewrite(*understood, [hidden(batch, length)])


def test_repeated_heads_of_an_eager_attention_are_not_repeated() -> None:
    def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (operand[:, :, None].expand(-1, -1, 2, -1, -1).reshape(q.shape) for operand in (k, v))
        return _filled(q, k, v)

    original = exported(stacked(grouped, kv_heads=2), hidden(2, 11))
    program = raise_attention(original)
    assert program.sites[0].kv_heads == 2
    assert "expand" not in operators(program)
    verify_rewrite(original, program, [hidden(3, 9)])


def test_a_stored_mask_is_compared_up_to_the_longest_sequence() -> None:
    class Stored(nn.Module):
        def __init__(self, mask: Tensor) -> None:
            super().__init__()
            self.register_buffer("mask", mask)

        def forward(self, x: Tensor) -> Tensor:
            length, q = x.shape[1], x[:, None]
            scores = (q @ q.transpose(-1, -2)).masked_fill(
                self.get_buffer("mask")[:length, :length] == 0, -1e9
            )
            out: Tensor = scores.softmax(-1) @ q
            return out

    causal = torch.ones(64, 64).tril()
    assert raise_attention(exported(Stored(causal), hidden(2, 11), longest=_LONGEST)).sites[0].causal
    other = causal.clone()
    other[40, 0] = 0
    assert not raise_attention(exported(Stored(other), hidden(2, 11), longest=_LONGEST)).sites


def _softcap(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (20 * torch.tanh(q @ k.transpose(-1, -2) / 20)).softmax(-1) @ v


def _linear_bias(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    position = torch.arange(q.shape[2])
    return (q @ k.transpose(-1, -2) - 0.001 * (position[:, None] - position).abs()).softmax(-1) @ v


def _temperature(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.transpose(-1, -2)) * torch.arange(1.0, 5.0)[:, None, None]).softmax(-1) @ v


def _weights_twice(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.transpose(-1, -2)).softmax(-1)
    return weights @ v + weights.mean()


def _trained_dropout(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return nn.functional.dropout((q @ k.transpose(-1, -2)).softmax(-1), 0.2, training=True) @ v


def _normed_twice(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.transpose(-1, -2)).softmax(-1) * 0.5) @ v


LEFT: dict[str, tuple[Attend, str]] = {
    "softcap": (_softcap, "its scores go through tanh"),
    "linear bias": (_linear_bias, "its scores get a bias, or its weights are not those of a softmax"),
    "temperature": (_temperature, "its scores are multiplied with a tensor"),
    "weights used twice": (_weights_twice, "its softmax weights are used elsewhere"),
    "dropout": (_trained_dropout, "it has dropout 0.2"),
    "halved weights": (_normed_twice, "its scores get a bias, or its weights are not those of a softmax"),
}


def _strongest(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2)
    return scores.masked_fill(scores < scores.topk(16).values[..., -1:], -torch.inf).softmax(-1) @ v


def _turned(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (k @ q.transpose(-1, -2)).transpose(-1, -2).softmax(-1) @ v


def test_a_fixed_length_does_not_spare_the_softmax_its_trial() -> None:
    module = stacked(_strongest, _turned, _filled).eval()
    program = raise_attention(
        Program.from_exported(torch.export.export(module, (hidden(2, 128),), strict=False))
    )
    assert [site.name for site in program.sites] == ["2"]
    assert [entry.name for entry in program.left] == ["0", "1"]


@pytest.fixture(scope="module")
def not_understood() -> tuple[Program, Program]:
    original = exported(stacked(*(attend for attend, _ in LEFT.values())), hidden(2, 11), longest=_LONGEST)
    return original, raise_attention(original)


@pytest.mark.parametrize(("place", "name"), list(enumerate(LEFT)))
def test_what_is_not_understood_is_named_with_the_reason(
    not_understood: tuple[Program, Program], place: int, name: str
) -> None:
    assert not_understood[1].left[place] == LeftDense(str(place), LEFT[name][1])


def test_what_is_not_understood_stays_exactly_as_it_was(not_understood: tuple[Program, Program]) -> None:
    original, program = not_understood
    assert program.sites == ()
    assert str(program.graph.graph) == str(original.graph.graph)


def test_another_spelling_of_a_product_that_is_not_raised_comes_back() -> None:
    def biased(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, _, length, _ = q.shape
        q, k, v = (operand.reshape(-1, length, HEAD_DIM) for operand in (q, k, v))
        bias = torch.arange(length) * 0.5
        scores = torch.baddbmm(bias.expand(length, -1), q, k.transpose(1, 2))
        return torch.einsum("nqk,nkd->nqd", scores.softmax(-1), v).view(batch, HEADS, length, HEAD_DIM)

    original = exported(stacked(biased), hidden(2, 11))
    program = raise_attention(original)
    assert len(reasons(program)) == 1
    assert operators(program) == operators(original)


def test_the_gate_of_experts_is_no_attention() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.keys = nn.Parameter(torch.randn(WIDTH, 6))
            self.values = nn.Parameter(torch.randn(6, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = (x @ self.keys).softmax(-1) @ self.values
            return out

    program = raise_attention(exported(Gate(), hidden(2, 11)))
    assert (program.sites, program.left) == ((), ())


def test_bfloat16_is_raised_within_its_rounding() -> None:
    original = exported(stacked(_filled).to(torch.bfloat16), hidden(2, 11, torch.bfloat16))
    program = raise_attention(original)
    assert len(program.sites) == 1
    verify_rewrite(original, program, [hidden(3, 29, torch.bfloat16)])


class _MultiHead(nn.Module):
    def __init__(self, *, batch_first: bool, need_weights: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.heads(x, x, x, need_weights=self.need_weights)[0]
        return out


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_multi_head_attention_keeps_its_heads_apart(batch_first: bool, need_weights: bool) -> None:
    module = _MultiHead(batch_first=batch_first, need_weights=need_weights)
    original = exported(module, hidden(2, 11), batch_axis=0 if batch_first else 1)
    program = raise_attention(original)
    (found,) = findings(program)
    assert (found.site, found.match) == ("heads", "eager" if need_weights else "sdpa")
    assert (found.q_heads, found.kv_heads, found.mask) == (HEADS, HEADS, "bidirectional")
    verify_rewrite(original, program, [hidden(3, 7)])


def test_multi_head_attention_whose_weights_are_returned_stays() -> None:
    class Returned(_MultiHead):
        def forward(self, x: Tensor) -> Tensor:
            out, weights = self.heads(x, x, x)
            return torch.cat((out, weights @ x), -1)

    program = raise_attention(exported(Returned(batch_first=True, need_weights=True), hidden(2, 11)))
    assert reasons(program) == ["its softmax weights are used elsewhere"]
