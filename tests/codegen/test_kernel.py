"""The CPU attention kernel computes the operator, against the float64 reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hcompile.codegen import get_backend
from hcompile.errors import KernelError
from hcompile.operator import Kernel
from hcompile.routing import route
from tests.codegen.kernel_cases import DENSE, LISTED, Call, assert_right, build, make_call, schedule

KERNELS = {
    "float32": ("float32", 64, schedule("float32", 64)),
    "float32-staged": ("float32", 64, schedule("float32", 64, stage=1, block_k=96, mr_s=12, mr_o=4, nv_o=2)),
    "float32-wide": (
        "float32",
        64,
        schedule("float32", 64, block_q=64, mr_s=6, nv_s=4, nv_o=4, mr_o=4, block_k=192),
    ),
    "float32-eight-lanes": ("float32", 64, schedule("float32", 64, lanes=8, mr_s=6, mr_o=4, block_k=96)),
    "float32-head-40": ("float32", 40, schedule("float32", 40)),
    "bfloat16": ("bfloat16", 64, schedule("bfloat16", 64)),
    "bfloat16-head-8": ("bfloat16", 8, schedule("bfloat16", 8)),
    "bfloat16-pairs": ("bfloat16", 64, schedule("bfloat16", 64, dot=True)),
    "bfloat16-pairs-head-48": (
        "bfloat16",
        48,
        schedule("bfloat16", 48, dot=True, mr_s=4, block_q=16, nv_s=1, nv_o=1),
    ),
}


def runs_here(name: str) -> bool:
    flags = Path("/proc/cpuinfo").read_text()
    return ("avx512_bf16" in flags) if "pairs" in name else ("avx512bw" in flags or "eight" in name)


@pytest.fixture(scope="module", params=list(KERNELS))
def kernel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Kernel, torch.dtype, int]:
    """A kernel, its dtype and its head size."""
    if not runs_here(request.param):
        pytest.skip("this CPU lacks the instructions")
    dtype, head_dim, plan = KERNELS[request.param]
    return build(tmp_path_factory.mktemp("kernels"), plan, dtype, head_dim), getattr(torch, dtype), head_dim


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """The kernel that this machine would take for float32 heads of 64."""
    plan = get_backend("tvm_cpu").safe_schedule("float32", 64)
    return build(tmp_path_factory.mktemp("kernels"), plan, "float32", 64)


@pytest.mark.parametrize("length", [1, 33, 301])
@pytest.mark.parametrize("causal", [True, False])
def test_ragged_lengths(kernel: tuple[Kernel, torch.dtype, int], length: int, causal: bool) -> None:
    run, dtype, head_dim = kernel
    heads = [DENSE, (50, 7), (1, 0), (400, 3)]
    call = make_call(
        heads, length, length, kv_heads=2, head_dim=head_dim, dtype=dtype, causal=causal, seed=length
    )
    assert_right(call, call.run(run))


def test_padding(kernel: tuple[Kernel, torch.dtype, int]) -> None:
    """Rows padded left, right, in the middle, and wholly; a wholly padded row gives zeros."""
    run, dtype, head_dim = kernel
    mask = torch.ones(5, 150, dtype=torch.bool)
    mask[1, :70] = False
    mask[2, 90:] = False
    mask[3, 40:110:3] = False
    mask[4] = False
    call = make_call([DENSE, (40, 5)], 150, 150, batch=5, head_dim=head_dim, dtype=dtype, key_mask=mask)
    out = call.run(run)
    assert_right(call, out)
    assert out[4].count_nonzero() == 0 and out[1, :, :70].count_nonzero() == 0


def test_fewer_queries_than_keys(kernel: tuple[Kernel, torch.dtype, int]) -> None:
    run, dtype, head_dim = kernel
    for q_len, kv_len, offset in (
        (1, 200, None),
        (3, 200, None),
        (40, 130, None),
        (20, 130, 50),
        (50, 20, 60),
    ):
        call = make_call([DENSE, (30, 4)], q_len, kv_len, q_offset=offset, head_dim=head_dim, dtype=dtype)
        assert_right(call, call.run(run))


def test_large_scores(kernel: tuple[Kernel, torch.dtype, int]) -> None:
    """Scores in the thousands: nothing overflows, and weights that are 0 in float32 are 0."""
    run, dtype, head_dim = kernel
    call = make_call([DENSE, (30, 4)], 100, 100, head_dim=head_dim, dtype=dtype, spread=500.0)
    assert_right(call, call.run(run))


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_a_nan_shows_in_the_outputs_that_see_it(kernel: tuple[Kernel, torch.dtype, int], name: str) -> None:
    run, dtype, head_dim = kernel
    call = make_call([(10, 0)], 100, 100, head_dim=head_dim, dtype=dtype)
    getattr(call, name)[0, 0, 50, 3] = float("nan")
    nan = call.run(run).isnan().any(-1)[0, 0]
    assert nan[50] and (name == "q" or nan[50:60].all())
    assert not nan[96:].any()  # Queries of the same tile that do not see a NaN value may show it too.


local_heads = st.tuples(st.integers(1, 120), st.integers(0, 40))


@settings(max_examples=40)
@given(
    groups=st.lists(st.one_of(st.just(DENSE), local_heads), min_size=1, max_size=3),
    group=st.integers(1, 3),
    batch=st.integers(1, 3),
    q_len=st.integers(1, 100),
    more_keys=st.integers(0, 80),
    causal=st.booleans(),
    hidden=st.none() | st.floats(0.0, 1.0),
    seed=st.integers(0, 2**31),
)
def test_any_call(
    plain: Kernel,
    groups: list[tuple[int, int]],
    group: int,
    batch: int,
    q_len: int,
    more_keys: int,
    causal: bool,
    hidden: float | None,
    seed: int,
) -> None:
    kv_len = q_len + more_keys
    mask = None
    if hidden is not None:
        mask = torch.rand(batch, kv_len, generator=torch.Generator().manual_seed(seed)) >= hidden
    heads = [head for head in groups for _ in range(group)]
    call = make_call(
        heads, q_len, kv_len, kv_heads=len(groups), batch=batch, causal=causal, key_mask=mask, seed=seed
    )
    assert_right(call, call.run(plain))


@pytest.mark.parametrize("length", [1, 64, 301])
@pytest.mark.parametrize("causal", [True, False])
def test_lists_of_key_blocks(kernel: tuple[Kernel, torch.dtype, int], length: int, causal: bool) -> None:
    run, dtype, head_dim = kernel
    heads = [LISTED, (20, 3), LISTED, DENSE]
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[0, : length // 3] = False
    mask[1, length // 2 : length // 2 + 9] = False
    call = make_call(
        heads,
        length,
        length,
        kv_heads=2,
        batch=2,
        head_dim=head_dim,
        dtype=dtype,
        causal=causal,
        key_mask=mask,
    ).with_lists()
    assert_right(call, call.run(run))


def test_lists_of_fewer_queries_than_keys(plain: Kernel) -> None:
    call = make_call([LISTED, DENSE], 150, 400).with_lists()
    assert_right(call, call.run(plain))


def test_routed_heads_read_the_lists_of_the_rule(plain: Kernel) -> None:
    call = make_call([LISTED, (33, 2), LISTED, DENSE], 500, 500, kv_heads=2, spread=3.0)
    rest = (call.key_mask, call.head_params, call.q_offset, call.scale, call.causal)
    lists = route(call.q, call.k, *rest)
    assert lists is not None
    assert_right(replace(call, lists=lists), call.run(plain))


@pytest.mark.parametrize("wrong", ["heads", "tiles", "dtype"])
def test_lists_that_do_not_fit_are_refused(plain: Kernel, wrong: str) -> None:
    call = make_call([LISTED, DENSE], 200, 200).with_lists()
    count, index = call.lists
    assert count is not None and index is not None
    others = {
        "heads": (count[:, :0], index[:, :0]),
        "tiles": (count[..., :1], index[:, :, :1]),
        "dtype": (count.long(), index),
    }
    with pytest.raises(KernelError, match="are no lists"):
        replace(call, lists=others[wrong]).run(plain)


def test_heads_of_other_sizes_or_dtypes_are_refused(plain: Kernel) -> None:
    for call in (make_call([DENSE], 4, 4, head_dim=32), make_call([DENSE], 4, 4, dtype=torch.bfloat16)):
        with pytest.raises(KernelError, match="heads of 64"):
            call.run(plain)


@pytest.mark.parametrize(
    "cut",
    [
        lambda call: {"v": call.v[:, :, :-1]},
        lambda call: {"k": call.k[:1], "v": call.v[:1]},
        lambda call: {"k": call.k[:, :2], "v": call.v[:, :2]},
        lambda call: {"key_mask": call.key_mask[:, :-1]},
        lambda call: {"key_mask": call.key_mask[:1]},
        lambda call: {"head_params": call.head_params[:1]},
    ],
    ids=["values", "batch", "heads", "mask", "rows of the mask", "parameters"],
)
def test_arguments_that_end_too_early_are_refused(
    plain: Kernel, cut: Callable[[Call], dict[str, Any]]
) -> None:
    call = make_call([DENSE] * 3, 5, 5, batch=2, key_mask=torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(KernelError, match=r"attention: .* not fit q \(2, 3, 5, 64\)"):
        replace(call, **cut(call)).run(plain)


def test_no_queries_and_no_keys(plain: Kernel) -> None:
    assert make_call([DENSE], 0, 5).run(plain).shape == (1, 1, 0, 64)
    assert make_call([DENSE], 5, 0, q_offset=0).run(plain).count_nonzero() == 0
