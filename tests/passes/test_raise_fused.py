"""Fused attention is raised where it is understood, and stays exactly as it was where it is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hcompile.left import LeftDense
from hcompile.passes.findings import Finding, findings
from hcompile.passes.raise_attention import raise_attention
from hcompile.passes.verify import verify_rewrite
from hcompile.program import Program
from tests.passes.attention_models import (
    HEAD_DIM,
    HEADS,
    Attend,
    Projected,
    causal_rule,
    exported,
    hidden,
    masked,
    operators,
    reasons,
    stacked,
)

_sdpa = F.scaled_dot_product_attention


def _repeated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    keys = k.repeat_interleave(2, dim=1)
    values = v[:, :, None].expand(-1, -1, 2, -1, -1).reshape(q.shape)
    return _sdpa(q, keys, values, is_causal=True)


UNDERSTOOD: dict[str, tuple[Attend, str]] = {
    "causal flag": (lambda q, k, v: _sdpa(q, k, v, is_causal=True), "causal"),
    "no mask": (lambda q, k, v: _sdpa(q, k, v), "bidirectional"),
    "positional arguments": (lambda q, k, v: _sdpa(q, k, v, None, 0.0, True), "causal"),
    "causal": (masked(causal_rule), "causal"),
    "window": (masked(lambda q, k: (k <= q) & (k > q - 5)), "causal, window 5"),
    "long window": (masked(lambda q, k: (k <= q) & (q - k < 300)), "causal, window 300"),
    "two-sided window": (masked(lambda q, k: (q - k).abs() <= 3), "bidirectional, window 4"),
    "additive": (masked(lambda q, k: torch.zeros(()).masked_fill(k > q, -torch.inf)), "causal"),
    "finite additive": (masked(lambda q, k: (k > q).float() * -1e9), "causal"),
}


@pytest.fixture(scope="module")
def understood() -> tuple[Program, Program]:
    original = exported(stacked(*(attend for attend, _ in UNDERSTOOD.values())), hidden(2, 11))
    return original, raise_attention(original)


@pytest.mark.parametrize(("place", "name"), list(enumerate(UNDERSTOOD)))
def test_a_mask_is_read_as_what_it_means(understood: tuple[Program, Program], place: int, name: str) -> None:
    _, program = understood
    assert findings(program)[place] == Finding(
        str(place), "sdpa", HEADS, HEADS, HEAD_DIM, UNDERSTOOD[name][1], guard=None
    )
    assert program.sites[place].scale == HEAD_DIM**-0.5


def test_nothing_of_the_masks_is_left(understood: tuple[Program, Program]) -> None:
    original, program = understood
    assert {"scaled_dot_product_attention", "arange", "le"} <= set(operators(original))
    assert set(operators(program)) == {"linear", "view", "reshape", "transpose", "sym_size", "attention"}
    assert operators(program).count("attention") == len(UNDERSTOOD)
    assert len(program.graph.graph.nodes) < len(original.graph.graph.nodes)


@pytest.mark.parametrize(("batch", "length"), [(3, 17), (1, 1), (2, 2), (1, 350)])
def test_the_raised_graph_computes_the_same(
    understood: tuple[Program, Program], batch: int, length: int
) -> None:
    verify_rewrite(*understood, [hidden(batch, length)])


def test_grouped_heads_are_not_repeated() -> None:
    def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _sdpa(q, k, v, is_causal=True, enable_gqa=True, scale=0.3)

    original = exported(stacked(grouped, _repeated, kv_heads=2), hidden(2, 11))
    program = raise_attention(original)
    assert [(site.q_heads, site.kv_heads, site.scale) for site in program.sites] == [
        (4, 2, 0.3),
        (4, 2, HEAD_DIM**-0.5),
    ]
    assert not {"repeat_interleave", "expand", "clone"} & set(operators(program))
    verify_rewrite(original, program, [hidden(3, 9)])


def test_a_repeat_in_another_order_keeps_the_repeated_heads() -> None:
    # Head h of `repeat` reads head h % 2, and not h // 2.
    def tiled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _sdpa(q, k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1))

    original = exported(Projected(tiled, kv_heads=2), hidden(2, 11))
    program = raise_attention(original)
    assert program.sites[0].kv_heads == HEADS
    verify_rewrite(original, program, [hidden(3, 9)])


def test_multi_query_keys_stay_one_head() -> None:
    def shared(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _sdpa(q, k.expand(-1, HEADS, -1, -1), v.expand(-1, HEADS, -1, -1))

    program = raise_attention(exported(Projected(shared, kv_heads=1), hidden(2, 11)))
    assert program.sites[0].kv_heads == 1
    assert "expand" not in operators(program)


def _dropout(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _sdpa(q, k, v, dropout_p=0.1)


def _with_bias(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    position = torch.arange(q.shape[2])
    return _sdpa(q, k, v, attn_mask=-0.1 * (position[:, None] - position).abs())


def _per_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    position = torch.arange(q.shape[2])
    reach = torch.arange(1, HEADS + 1)[:, None, None]
    return _sdpa(q, k, v, attn_mask=(position[:, None] - position).abs() < reach)


def _mask_of_activations(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _sdpa(q, k, v, attn_mask=k[:, :1, None, :, 0] > 0)


def _bias_of_pieces(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    row, column = q.chunk(2, dim=-1)
    return _sdpa(q, k, v, attn_mask=row.sum(-1, keepdim=True) - column.sum(-1)[:, :, None])


def _wider_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _sdpa(q, k, v[..., :4]).repeat(1, 1, 1, 2)


NO_FORM = "its mask is no causal mask, no window, and no padding of keys"
LEFT: dict[str, tuple[Attend, str]] = {
    "dropout": (_dropout, "it has dropout 0.1"),
    "bias": (_with_bias, "its mask holds a bias"),
    "mask per head": (_per_head, NO_FORM),
    "mask of activations": (
        _mask_of_activations,
        "its mask depends on input_1 in another way than padding of keys",
    ),
    "bias of pieces of activations": (
        _bias_of_pieces,
        "its mask depends on input_1 in another way than padding of keys",
    ),
    "head sizes": (_wider_queries, "Q, K and V differ in head size"),
    "causal but for one pair": (masked(lambda q, k: (k <= q) | ((q == 20) & (k == 21))), NO_FORM),
    "causal up to a length": (masked(lambda q, k: (k <= q) & ~((q > 500) & (k < 2))), NO_FORM),
    "window that grows": (masked(lambda q, k: (k <= q) & (k >= q - k.shape[1] // 2)), NO_FORM),
    "blocks": (masked(lambda q, k: (k <= q) & (q // 4 == k // 4)), NO_FORM),
}


@pytest.fixture(scope="module")
def not_understood() -> tuple[Program, Program]:
    original = exported(stacked(*(attend for attend, _ in LEFT.values())), hidden(2, 11))
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


def test_cross_attention_stays() -> None:
    class Cross(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            keys = x[:, None].repeat(1, 1, 2, 1)
            return _sdpa(x[:, None], keys, keys)

    program = raise_attention(exported(Cross(), hidden(2, 11)))
    assert reasons(program) == ["its queries and keys differ in length (cross-attention)"]


def test_a_raised_attention_does_not_hide_one_of_its_module_that_stays() -> None:
    class Decoder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            keys = x[:, None].repeat(1, 1, 2, 1)
            crossed = _sdpa(x[:, None], keys, keys)
            return _sdpa(crossed, crossed, crossed)[:, 0]

    program = raise_attention(exported(nn.Sequential(Decoder()), hidden(2, 11)))
    assert [site.name for site in program.sites] == ["0"]
    assert program.left == (LeftDense("0", "its queries and keys differ in length (cross-attention)"),)


def test_an_attention_that_is_bound_to_a_kernel_is_named() -> None:
    class Bound(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            heads = x[:, None]
            out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(heads, heads, heads)[0]
            return out

    program = raise_attention(exported(Bound(), hidden(2, 11)))
    assert [reason.partition(" (")[0] for reason in reasons(program)] == ["it is already bound to a kernel"]


def test_raising_twice_changes_nothing() -> None:
    once = raise_attention(exported(Projected(masked(causal_rule)), hidden(2, 11)))
    twice = raise_attention(once)
    assert twice.sites == once.sites
    assert str(twice.graph.graph) == str(once.graph.graph)


def test_sites_are_numbered_in_execution_order_and_named_after_their_modules() -> None:
    layers = nn.Sequential(*(Projected(masked(causal_rule)) for _ in range(3)))
    program = raise_attention(exported(layers, hidden(2, 11)))
    assert [(site.layer, site.name) for site in program.sites] == [(0, "0"), (1, "1"), (2, "2")]
    assert [name for name in program.tensors if name.startswith("hcompile")] == [
        "hcompile_params_0",
        "hcompile_params_1",
        "hcompile_params_2",
    ]


def test_a_module_that_runs_twice_gets_two_names() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Projected(masked(causal_rule))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(self.layer(x))
            return out

    program = raise_attention(exported(Twice(), hidden(2, 11)))
    assert [site.name for site in program.sites] == ["layer", "layer#2"]
