"""Linear far fields: blocks of queries compute what the reference says, with padding, in decode, and as an operator."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hcompile.far_field import far_field, far_field_reference
from hcompile.far_field_operator import far_heads
from hcompile.operator import empty_output
from hcompile.reference import attention_reference

HEAD_DIM, FEATURES, SCALE = 8, 5, 8**-0.5
Case = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def case(batch: int, heads: int, q_len: int, kv_len: int, seed: int = 0, kv_heads: int | None = None) -> Case:
    """Return q, k, v and maps in float64, whose features and scores differ enough to matter."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    kept = heads if kv_heads is None else kv_heads
    q = normal(batch, heads, q_len, HEAD_DIM)
    k, v = normal(2, batch, kept, kv_len, HEAD_DIM)
    return q, k, v, normal(heads, 2, FEATURES, HEAD_DIM + 1)


def padding(batch: int, kv_len: int, seed: int) -> torch.Tensor:
    """Return a mask with rows that begin late, end early, have holes, or nothing at all."""
    rng = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, kv_len, generator=rng) < 0.8
    mask[0, : kv_len // 3] = False
    if batch > 1:
        mask[1, kv_len // 2 :] = False
    if batch > 2:
        mask[2] = False
    return mask


@given(
    st.integers(1, 150),
    st.integers(0, 90),
    st.integers(1, 100),
    st.integers(0, 20),
    st.booleans(),
    st.integers(0, 99),
)
def test_blocks_compute_what_the_reference_does(
    q_len: int, earlier: int, window: int, sinks: int, padded: bool, seed: int
) -> None:
    kv_len = q_len + earlier
    q, k, v, maps = case(3, 2, q_len, kv_len, seed)
    mask = padding(3, kv_len, seed) if padded else None
    found = far_field(q, k, v, mask, maps, window, sinks, earlier, SCALE)
    wanted = far_field_reference(q, k, v, mask, maps, window, sinks, earlier, SCALE)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


def test_what_lies_past_a_large_block_is_far_too() -> None:
    q, k, v, maps = case(1, 1, 1700, 1700)
    for window in (600, 1025):
        found = far_field(q, k, v, None, maps, window, 16, 0, SCALE)
        wanted = far_field_reference(q, k, v, None, maps, window, 16, 0, SCALE)
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("padded", [False, True])
def test_a_window_over_everything_is_dense_attention(padded: bool) -> None:
    q, k, v, maps = case(3, 2, 50, 50)
    mask = padding(3, 50, 1) if padded else None
    params = torch.tensor([[64, 0]] * 2, dtype=torch.int32)
    found = far_field(q, k, v, mask, maps, 64, 0, 0, SCALE)
    torch.testing.assert_close(found, attention_reference(q, k, v, mask, params, 0, SCALE, True))


@pytest.mark.parametrize("exponent", [80.0, -80.0])
def test_large_exponents_neither_overflow_nor_vanish(exponent: float) -> None:
    q, k, v, maps = case(1, 2, 90, 90)
    maps[:, 0, :, -1] += exponent
    single = [value.float() for value in (q, k, v)]
    found = far_field(single[0], single[1], single[2], None, maps.float(), 16, 2, 0, SCALE)
    wanted = far_field_reference(q, k, v, None, maps, 16, 2, 0, SCALE)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_the_reference() -> None:
    tensors = [value.requires_grad_() for value in case(2, 2, 70, 70)]
    push = torch.randn(2, 2, 70, HEAD_DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def gradients(function: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        q, k, v, maps = tensors
        return torch.autograd.grad(function(q, k, v, None, maps, 10, 4, 0, SCALE), tensors, push)

    for found, wanted in zip(gradients(far_field), gradients(far_field_reference), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)


def test_lower_precision_differs_by_its_rounding() -> None:
    q, k, v, maps = case(1, 2, 200, 200)
    rounded = [value.bfloat16() for value in (q, k, v)]
    wanted = far_field_reference(
        rounded[0].double(), rounded[1].double(), rounded[2].double(), None, maps, 32, 4, 0, SCALE
    )
    found = far_field(rounded[0], rounded[1], rounded[2], None, maps.float(), 32, 4, 0, SCALE)
    # An output is a mean of values: it is off by the rounding of weights (relative to their sum) and of itself.
    assert found.dtype == torch.bfloat16
    bound = 4 * torch.finfo(torch.bfloat16).eps * float(v.abs().max())
    assert float((found.double() - wanted).abs().max()) < bound


def test_the_operator_puts_heads_in_place_and_leaves_the_others() -> None:
    q, k, v, maps = case(2, 6, 80, 80, kv_heads=2)
    far = torch.tensor([(16, 4), (0, 0), (16, 4), (8, 0), (0, 0), (70, 2)], dtype=torch.int32)
    kernel = torch.randn(q.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mask = padding(2, 80, 5)
    out = empty_output(q).copy_(kernel)
    found = far_heads(out, q, k, v, mask, maps, far, 0, SCALE)
    assert found.stride() == out.stride() and found.data_ptr() != out.data_ptr()
    for head, (window, sinks) in enumerate(far.tolist()):
        one, its = slice(head, head + 1), slice(head // 3, head // 3 + 1)
        wanted = kernel[:, one]
        if window:
            wanted = far_field_reference(
                q[:, one], k[:, its], v[:, its], mask, maps[one], window, sinks, 0, SCALE
            )
        torch.testing.assert_close(found[:, one], wanted, rtol=1e-11, atol=1e-12)


def test_the_operator_is_one_that_torch_can_trace() -> None:
    q, k, v, maps = case(1, 2, 40, 40)
    far = torch.tensor([(16, 4), (0, 0)], dtype=torch.int32)
    torch.library.opcheck(far_heads, (empty_output(q).copy_(q), q, k, v, None, maps, far, 0, SCALE))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_computes_the_same(dtype: torch.dtype) -> None:
    q, k, v, maps = case(3, 4, 300, 300, kv_heads=2)
    mask = padding(3, 300, 2)
    far = torch.tensor([(64, 4), (0, 0), (300, 0), (17, 16)], dtype=torch.int32)
    rounded = [value.to(dtype) for value in (q, k, v)]
    wanted = far_heads(torch.zeros_like(q), *(value.double() for value in rounded), mask, maps, far, 0, SCALE)
    on_gpu = [value.cuda() for value in (*rounded, mask, maps.float(), far)]
    poisoned = torch.full_like(on_gpu[0], float("nan"))
    poisoned[:, 1] = 0.0
    found = far_heads(poisoned, *on_gpu, 0, SCALE).cpu().double()
    bound = 4 * torch.finfo(dtype).eps * float(v.abs().max())
    assert float((found - wanted).abs().max()) < max(bound, 1e-4)
