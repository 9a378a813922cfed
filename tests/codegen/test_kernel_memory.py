"""What a kernel reads and writes: its inputs in any layout, nothing beside them, every element of its output."""

from __future__ import annotations

import ctypes
import mmap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from hcompile.codegen import get_backend
from hcompile.operator import Kernel
from tests.codegen.kernel_cases import DENSE, Call, assert_right, build, make_call

DTYPES = ["float32", "bfloat16"]


@pytest.fixture(scope="module", params=DTYPES)
def kernel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Kernel, torch.dtype]:
    """The kernel that this machine would take for a dtype."""
    plan = get_backend("tvm_cpu").safe_schedule(request.param, 64)
    return build(tmp_path_factory.mktemp("kernels"), plan, request.param, 64), getattr(torch, request.param)


def guarded(tensor: torch.Tensor, side: str) -> torch.Tensor:
    """Return a contiguous copy that ends (or begins) right at memory that must not be touched: a process that does is
    killed."""
    size = tensor.numel() * tensor.element_size()
    pages = -(-size // mmap.PAGESIZE)
    area = mmap.mmap(-1, (pages + 2) * mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for page in (0, pages + 1):
        assert (
            protect(ctypes.c_void_p(address + page * mmap.PAGESIZE), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
        )
    start = mmap.PAGESIZE + (pages * mmap.PAGESIZE - size if side == "end" else 0)
    copy = torch.frombuffer(area, dtype=tensor.dtype, count=tensor.numel(), offset=start).view(tensor.shape)
    return copy.copy_(tensor)


@pytest.fixture(params=["begin", "end"])
def side(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("lengths", [(1, 1), (5, 5), (37, 37), (3, 70)])
def test_nothing_beside_the_inputs_is_read(
    kernel: tuple[Kernel, torch.dtype], side: str, lengths: tuple[int, int]
) -> None:
    run, dtype = kernel
    mask = torch.ones(1, lengths[1], dtype=torch.bool)
    mask[0, lengths[1] // 2 :: 2] = False
    call = make_call([DENSE, (9, 2)], *lengths, kv_heads=1, dtype=dtype, key_mask=mask)
    q, k, v, mask, params = (guarded(each, side) for each in (call.q, call.k, call.v, mask, call.head_params))
    call = replace(call, q=q, k=k, v=v, key_mask=mask, head_params=params)
    assert_right(call, call.run(run))


def test_values_around_a_slice_do_not_show(kernel: tuple[Kernel, torch.dtype]) -> None:
    """Keys before and behind the ones given, and heads beside them, are NaN."""
    run, dtype = kernel
    call = make_call([DENSE, (9, 2)], 45, 45, dtype=dtype)

    def inside(tensor: torch.Tensor) -> torch.Tensor:
        batch, heads, length, head_dim = tensor.shape
        around = torch.full((batch, length + 20, heads + 2, head_dim + 16), float("nan"), dtype=dtype)
        part = around[:, 10 : 10 + length, 1 : 1 + heads, 8 : 8 + head_dim].transpose(1, 2)
        return part.copy_(tensor)

    sliced = replace(call, q=inside(call.q), k=inside(call.k), v=inside(call.v))
    assert torch.equal(sliced.run(run), call.run(run))


def layouts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return the same values in other strides: by heads, with rows an odd number apart, not dense, and transposed."""
    batch, heads, length, head_dim = tensor.shape
    odd = torch.zeros(batch, heads, length, head_dim + 1, dtype=tensor.dtype)[..., :head_dim].copy_(tensor)
    sparse = torch.zeros(batch, heads, length, 2 * head_dim, dtype=tensor.dtype)[..., ::2].copy_(tensor)
    transposed = tensor.transpose(2, 3).contiguous().transpose(2, 3)
    return [tensor.contiguous(), odd, sparse, transposed]


def test_strides_do_not_matter(kernel: tuple[Kernel, torch.dtype]) -> None:
    run, dtype = kernel
    call = make_call([DENSE, (9, 2)], 45, 45, kv_heads=1, dtype=dtype, batch=2)
    wanted = call.run(run)
    for q, k, v in zip(layouts(call.q), layouts(call.k), layouts(call.v), strict=True):
        assert torch.equal(replace(call, q=q, k=k, v=v).run(run), wanted)
    shared = replace(call, k=call.k[:1].expand(2, -1, -1, -1), v=call.v[:1].expand(2, -1, -1, -1))
    assert_right(shared, shared.run(run))


def test_output_lies_as_tokens_then_heads_and_is_wholly_written(kernel: tuple[Kernel, torch.dtype]) -> None:
    run, dtype = kernel
    call = make_call([DENSE, (9, 2)], 45, 45, dtype=dtype)
    mode, settings = torch.get_deterministic_debug_mode(), torch.utils.deterministic
    torch.set_deterministic_debug_mode("warn")
    try:
        assert settings.fill_uninitialized_memory  # type: ignore[attr-defined]  # Fresh memory is NaN.
        out = call.run(run)
    finally:
        torch.set_deterministic_debug_mode(mode)
    assert out.transpose(1, 2).is_contiguous()
    assert_right(call, out)


def test_inputs_are_left_alone(kernel: tuple[Kernel, torch.dtype]) -> None:
    run, dtype = kernel
    call = make_call([DENSE, (9, 2)], 45, 45, dtype=dtype)
    before = [tensor.clone() for tensor in (call.q, call.k, call.v, call.head_params)]
    call.run(run)
    assert all(map(torch.equal, before, (call.q, call.k, call.v, call.head_params)))


def test_several_threads_call_at_once(kernel: tuple[Kernel, torch.dtype]) -> None:
    run, dtype = kernel
    calls = [
        make_call([DENSE, (20, 3)], 90 + 17 * seed, 90 + 17 * seed, dtype=dtype, seed=seed)
        for seed in range(6)
    ]
    wanted = [call.run(run) for call in calls]

    def again(call: Call) -> list[torch.Tensor]:
        return [call.run(run) for _ in range(20)]

    with ThreadPoolExecutor(6) as pool:
        for outs, out in zip(pool.map(again, calls), wanted, strict=True):
            assert all(torch.equal(each, out) for each in outs)


def test_the_number_of_threads_does_not_change_the_result(kernel: tuple[Kernel, torch.dtype]) -> None:
    run, dtype = kernel
    call = make_call([DENSE, (20, 3)], 200, 200, dtype=dtype)
    threads = torch.get_num_threads()
    try:
        outs = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            outs.append(call.run(run))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])
