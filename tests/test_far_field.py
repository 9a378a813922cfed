"""Linear far fields: blocks of queries compute what the reference says, with padding, in decode, and in attention."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hcompile import operator
from hcompile.far_field import far_field, far_field_reference
from hcompile.operator import attention, empty_output
from hcompile.patterns import UNBOUNDED
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


def by_heads(call: Case, mask: torch.Tensor | None, params: torch.Tensor, far: torch.Tensor) -> torch.Tensor:
    """Return what the references say of each head by itself."""
    q, k, v, maps = call
    group = q.shape[1] // k.shape[1]
    outs = []
    for head, (window, sinks) in enumerate(params.tolist()):
        one, its = slice(head, head + 1), slice(head // group, head // group + 1)
        part = q[:, one], k[:, its], v[:, its], mask
        if far[head]:
            outs.append(far_field_reference(*part, maps[one], window, sinks, 0, SCALE))
        else:
            outs.append(attention_reference(*part, params[one], 0, SCALE, True))
    return torch.cat(outs, dim=1)


PARAMS = torch.tensor([(16, 4), (UNBOUNDED, 0), (16, 4), (8, 0), (5, 3), (70, 2)], dtype=torch.int32)
HEADS = torch.tensor([True, False, True, True, False, True])


def test_attention_has_heads_of_every_kind() -> None:
    call = case(2, 6, 80, 80, kv_heads=2)
    q, k, v, maps = call
    mask = padding(2, 80, 5)
    found = attention(q, k, v, mask, PARAMS, None, None, 0, SCALE, True, "", maps, HEADS)
    assert found.stride() == empty_output(q).stride()
    torch.testing.assert_close(found, by_heads(call, mask, PARAMS, HEADS), rtol=1e-11, atol=1e-12)


def test_no_head_may_use_its_maps() -> None:
    q, k, v, maps = case(1, 6, 30, 30)
    found = attention(q, k, v, None, PARAMS, None, None, 0, SCALE, True, "", maps, HEADS & False)
    torch.testing.assert_close(found, attention_reference(q, k, v, None, PARAMS, 0, SCALE, True))


@pytest.mark.parametrize(("q_len", "kv_len"), [(0, 40), (0, 0), (3, 0)])
def test_a_call_without_queries_or_keys_is_no_error(q_len: int, kv_len: int) -> None:
    q, k, v, maps = case(2, 6, q_len, kv_len)
    out = attention(q, k, v, None, PARAMS, None, None, 0, SCALE, True, "", maps, HEADS)
    assert out.shape == q.shape and not out.any()


def test_gradients_of_attention_are_those_of_its_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator, "_GRADIENT_ROWS", 32)
    call = case(2, 6, 70, 70, kv_heads=2)
    q, k, v, maps = call
    mask = padding(2, 70, 3)
    inputs = [value.requires_grad_() for value in (q, k, v)]
    push = torch.randn(q.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = attention(q, k, v, mask, PARAMS, None, None, 0, SCALE, True, "", maps, HEADS)
    wanted = by_heads(call, mask, PARAMS, HEADS)
    for one, other in zip(*(torch.autograd.grad(out, inputs, push) for out in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_torch_can_trace_it() -> None:
    q, k, v, maps = case(1, 6, 40, 40)
    torch.library.opcheck(attention, (q, k, v, None, PARAMS, None, None, 0, SCALE, True, "", maps, HEADS))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"far_heads": None}, "give both of maps and far_heads"),
        ({"far_heads": HEADS.int()}, "far_heads is torch.int32"),
        ({"maps": torch.zeros(6, 2, FEATURES, HEAD_DIM)}, "maps are"),
        ({"causal": False}, "of causal attention"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_traced(changes: dict[str, object], told: str) -> None:
    q, k, v, maps = (value.to("meta") for value in case(1, 6, 20, 20))
    fields = {"causal": True, "binding": "", "maps": maps, "far_heads": HEADS} | changes
    with pytest.raises(RuntimeError, match=told):
        attention(q, k, v, None, PARAMS, None, None, 0, SCALE, *fields.values())
