"""Far fields of CPU kernels: merged with near keys as the reference says, whatever the sizes, masks and threads."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hcompile.errors import KernelError
from hcompile.far_field import FarFields
from hcompile.operator import Kernel
from hcompile.patterns.linear import FEATURES
from tests.codegen.far_cases import HEADS, FarCall, assert_right, far_call, padding
from tests.codegen.kernel_cases import build, make_call, schedule


@cache
def kernel(dtype: str, head_dim: int) -> Kernel:
    return build(Path(mkdtemp(prefix="hcompile-tests-")), schedule(dtype, head_dim), dtype, head_dim)


@pytest.mark.parametrize(("dtype", "head_dim"), [("float32", 64), ("bfloat16", 64), ("bfloat16", 24)])
def test_every_kind_of_head_is_right(dtype: str, head_dim: int) -> None:
    case = far_call(700, 700, batch=2, head_dim=head_dim, dtype=getattr(torch, dtype))
    assert_right(case, case.run(kernel(dtype, head_dim)))


@settings(max_examples=25)
@given(st.integers(1, 600), st.integers(0, 600), st.sampled_from([0.02, 0.25, 1.0, 4.0]), st.integers(0, 999))
def test_queries_may_be_the_last_of_many_keys(q_len: int, earlier: int, spread: float, seed: int) -> None:
    case = far_call(q_len, q_len + earlier, spread=spread, seed=seed)
    assert_right(case, case.run(kernel("float32", 64)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_padding_is_never_seen(dtype: str) -> None:
    case = far_call(500, 500, batch=4, dtype=getattr(torch, dtype), key_mask=padding(500))
    out = case.run(kernel(dtype, 64))
    assert_right(case, out)
    assert not out[2].any()


def test_large_exponents_neither_overflow_nor_vanish() -> None:
    for bias in (90.0, -90.0):
        case = far_call(400, 400)
        case.far.maps[:, 1, :, -1] += bias
        assert_right(case, case.run(kernel("float32", 64)))


def test_any_number_of_threads_computes_the_same() -> None:
    case = far_call(900, 900, batch=2)
    threads = torch.get_num_threads()
    outs = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            outs.append(case.run(kernel("float32", 64)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])


def test_heads_without_a_far_field_are_as_they_would_be_alone() -> None:
    case = far_call(300, 300)
    call = case.call
    out, plain = case.run(kernel("float32", 64)), call.run(kernel("float32", 64))
    assert torch.equal(out[:, ~case.far.heads], plain[:, ~case.far.heads])
    none = FarCall(call, FarFields(case.far.maps, torch.zeros(len(HEADS), dtype=torch.bool)))
    assert torch.equal(none.run(kernel("float32", 64)), plain)


def test_a_call_without_queries_is_empty() -> None:
    case = far_call(0, 40)
    assert case.run(kernel("float32", 64)).shape == (1, len(HEADS), 0, 64)


@pytest.mark.parametrize(
    ("maps", "heads", "causal", "told"),
    [
        ((6, 2, FEATURES // 2, 65), (6,), True, "maps are"),
        ((6, 2, FEATURES, 65), (1, 6), True, "far fields of heads"),
        ((6, 2, FEATURES, 65), (5,), True, "far fields of heads"),
        ((5, 2, FEATURES, 65), (6,), True, "far fields of heads"),
        ((6, 2, FEATURES, 65), (6,), False, "causal attention"),
    ],
)
def test_what_does_not_fit_is_refused(
    maps: tuple[int, ...], heads: tuple[int, ...], causal: bool, told: str
) -> None:
    call = make_call(HEADS, 80, 80, kv_heads=2, causal=causal)
    far = FarFields(torch.zeros(maps), torch.ones(heads, dtype=torch.bool))
    with pytest.raises(KernelError, match=told):
        FarCall(call, far).run(kernel("float32", 64))
