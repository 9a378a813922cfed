"""The reference against a formula written out in loops, and against torch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hcompile.patterns import UNBOUNDED, Dense, Local, Pattern
from hcompile.reference import attention_reference, visible_pairs
from hcompile.routing import first_valid_key

DENSE = (UNBOUNDED, 0)


def tensors(
    batch: int,
    q_heads: int,
    kv_heads: int,
    q_len: int,
    kv_len: int,
    head_dim: int,
    dtype: torch.dtype,
    seed: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def make(heads: int, length: int) -> torch.Tensor:
        return torch.randn(batch, heads, length, head_dim, generator=generator, dtype=torch.float64).to(dtype)

    return make(q_heads, q_len), make(kv_heads, kv_len), make(kv_heads, kv_len)


def by_the_formula(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    key_mask: torch.Tensor | None,
    params: list[tuple[int, int]],
    q_offset: int,
    scale: float,
    causal: bool,
) -> torch.Tensor:
    """Loop over every row as the operator's definition says."""
    out = torch.zeros_like(q)
    group = q.shape[1] // k.shape[1]
    for b in range(q.shape[0]):
        valid = [j for j in range(k.shape[2]) if key_mask is None or bool(key_mask[b, j])]
        start = valid[0] if valid else 0
        for h, (window, sinks) in enumerate(params):
            for i in range(q.shape[2]):
                p = q_offset + i
                near = [j for j in valid if abs(p - j) < window or j < start + sinks]
                seen = [j for j in near if j <= p or not causal]
                if not seen:
                    continue
                scores = [scale * float(q[b, h, i] @ k[b, h // group, j]) for j in seen]
                largest = max(scores)
                weights = [math.exp(score - largest) for score in scores]
                for j, weight in zip(seen, weights, strict=True):
                    out[b, h, i] += weight / sum(weights) * v[b, h // group, j]
    return out


@st.composite
def masks(draw: st.DrawFn, batch: int, length: int) -> torch.Tensor | None:
    if draw(st.booleans()):
        return None
    rows = draw(
        st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=batch, max_size=batch)
    )
    return torch.tensor(rows)


@settings(max_examples=60)
@given(
    st.data(), st.integers(1, 7), st.integers(0, 5), st.booleans(), st.sampled_from([(2, 2), (4, 2), (3, 1)])
)
def test_float64_equals_the_formula(
    data: st.DataObject, q_len: int, earlier: int, causal: bool, heads: tuple[int, int]
) -> None:
    q_heads, kv_heads = heads
    kv_len = q_len + earlier
    params = data.draw(
        st.lists(
            st.just(DENSE) | st.tuples(st.integers(1, 9), st.integers(0, 4)),
            min_size=q_heads,
            max_size=q_heads,
        )
    )
    key_mask = data.draw(masks(2, kv_len))
    q_offset = data.draw(st.sampled_from([earlier, 0]))
    q, k, v = tensors(2, q_heads, kv_heads, q_len, kv_len, 4, torch.float64)
    out = attention_reference(
        q, k, v, key_mask, torch.tensor(params, dtype=torch.int32), q_offset, 0.5, causal
    )
    wanted = by_the_formula(q, k, v, key_mask, params, q_offset, 0.5, causal)
    torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_dense_heads_equal_torch(causal: bool, dtype: torch.dtype) -> None:
    q, k, v = tensors(2, 6, 2, 33, 33, 16, dtype)
    params = torch.tensor([DENSE] * 6, dtype=torch.int32)
    out = attention_reference(q, k, v, None, params, 0, 0.25, causal)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=causal, scale=0.25, enable_gqa=True
    )
    torch.testing.assert_close(out, wanted)


def test_a_window_and_padding_equal_torch_with_the_mask_written_out() -> None:
    q, k, v = tensors(2, 4, 4, 20, 20, 8, torch.float64)
    key_mask = torch.ones(2, 20, dtype=torch.bool)
    key_mask[1, :6] = False
    params = torch.tensor([(5, 2)] * 4, dtype=torch.int32)
    out = attention_reference(q, k, v, key_mask, params, 0, 0.3, True)
    position, key = torch.arange(20)[:, None], torch.arange(20)
    start = torch.tensor([0, 6])[:, None, None]
    seen = (position - key < 5) | (key < start + 2)
    seen = seen & (key <= position) & key_mask[:, None]
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None], scale=0.3)
    rows = seen.any(-1)
    torch.testing.assert_close(out.transpose(1, 2)[rows], wanted.transpose(1, 2)[rows])


def test_rows_that_see_no_key_are_zero() -> None:
    q, k, v = tensors(2, 2, 1, 5, 5, 4, torch.float32)
    key_mask = torch.ones(2, 5, dtype=torch.bool)
    key_mask[0] = False
    key_mask[1, :2] = False
    params = torch.tensor([DENSE, (1, 0)], dtype=torch.int32)
    out = attention_reference(q, k, v, key_mask, params, 0, 1.0, True)
    assert torch.equal(out[0], torch.zeros_like(out[0]))
    assert torch.equal(out[1, :, :2], torch.zeros_like(out[1, :, :2]))
    assert bool(out[1, :, 2:].abs().amax(-1).all())


def test_left_padding_shifts_the_sinks() -> None:
    """A padded row gives what the same tokens give without padding."""
    pad, length = 4, 12
    q, k, v = tensors(1, 2, 2, length, length, 4, torch.float64)
    params = torch.tensor([(3, 2), (2, 1)], dtype=torch.int32)
    key_mask = (torch.arange(length) >= pad)[None]
    padded = attention_reference(q, k, v, key_mask, params, 0, 0.5, True)
    alone = attention_reference(q[:, :, pad:], k[:, :, pad:], v[:, :, pad:], None, params, 0, 0.5, True)
    torch.testing.assert_close(padded[:, :, pad:], alone, rtol=1e-12, atol=1e-12)


def test_a_query_offset_continues_the_sequence() -> None:
    q, k, v = tensors(2, 4, 2, 11, 11, 4, torch.float64)
    params = torch.tensor([DENSE, (4, 1), (1, 0), (3, 3)], dtype=torch.int32)
    whole = attention_reference(q, k, v, None, params, 0, 0.5, True)
    for first in (3, 10):
        part = attention_reference(q[:, :, first:], k, v, None, params, first, 0.5, True)
        torch.testing.assert_close(part, whole[:, :, first:], rtol=1e-12, atol=1e-12)


def test_slices_of_query_rows_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = tensors(1, 2, 1, 19, 19, 4, torch.float64)
    params = torch.tensor([DENSE, (4, 1)], dtype=torch.int32)
    whole = attention_reference(q, k, v, None, params, 0, 0.5, True)
    monkeypatch.setattr("hcompile.reference._ROWS_AT_ONCE", 7)
    torch.testing.assert_close(attention_reference(q, k, v, None, params, 0, 0.5, True), whole)


def test_low_precision_is_computed_in_float32() -> None:
    q, k, v = tensors(1, 2, 2, 40, 40, 16, torch.bfloat16)
    params = torch.tensor([DENSE, (8, 2)], dtype=torch.int32)
    out = attention_reference(q, k, v, None, params, 0, 0.25, True)
    wanted = attention_reference(q.double(), k.double(), v.double(), None, params, 0, 0.25, True)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), wanted, rtol=2**-8, atol=1e-6)


def test_gradients_are_those_of_finite_differences() -> None:
    q, k, v = (tensor.requires_grad_() for tensor in tensors(1, 2, 1, 5, 5, 3, torch.float64))
    params = torch.tensor([DENSE, (2, 1)], dtype=torch.int32)
    key_mask = torch.tensor([[False, True, True, True, True]])
    assert torch.autograd.gradcheck(
        lambda q, k, v: attention_reference(q, k, v, key_mask, params, 0, 0.5, True), (q, k, v)
    )


@pytest.mark.parametrize("pattern", [Dense(), Local(5, 2), Local(1, 0)])
@pytest.mark.parametrize("causal", [True, False])
def test_visible_pairs_are_the_patterns_own(pattern: Pattern, causal: bool) -> None:
    params = torch.tensor([pattern.params()], dtype=torch.int32)
    seen = visible_pairs(params, torch.arange(4, 16), 16, None, causal)
    assert int(seen.sum()) == pattern.visited_pairs(12, 16, causal=causal)


def test_the_first_valid_key_of_each_row() -> None:
    rows = [[True, True], [False, True], [False, False]]
    assert first_valid_key(torch.tensor(rows)).tolist() == [0, 1, 0]
