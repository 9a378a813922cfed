"""Triton is asked once for each kind of call, however long the calls are; what it would pass is passed without it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import triton
from hypothesis import given
from hypothesis import strategies as st
from triton._C.libtriton import native_specialize_impl
from triton.backends.compiler import BaseBackend

from hcompile.codegen.triton_gpu import decode, descriptors, launch, prefill
from hcompile.codegen.triton_gpu.kernels.decode import decode as decode_kernel
from hcompile.codegen.triton_gpu.kernels.far_field import chunk_sums as sums_kernel
from hcompile.codegen.triton_gpu.kernels.hopper_prefill import hopper_prefill as hopper_kernel
from hcompile.codegen.triton_gpu.kernels.prefill import prefill as prefill_kernel
from hcompile.codegen.triton_gpu.kernels.route import block_shares as shares_kernel
from hcompile.codegen.triton_gpu.kernels.route import choose_blocks as choice_kernel
from hcompile.codegen.triton_gpu.launch import assumptions
from hcompile.errors import KernelError
from tests.codegen.triton_gpu.cases import schedule

ALL = 2**31 - 1
FIXED = 9
"""Arguments of `CompiledKernel.run` before those of the kernel."""
STRIDES = {f"{tensor}_{axis}" for tensor in "qkvo" for axis in ("batch", "head", "row")}
ROWS = {"q_ptr", "k_ptr", "v_ptr", "o_ptr"}
SPECIALISED = {
    "prefill": (prefill_kernel, ROWS | STRIDES | {"sums", "features", "maps"}),
    "sums": (
        sums_kernel,
        {"sums", "features", "maps", *(name for name in ROWS | STRIDES if name[0] in "kv")},
    ),
    "decode": (decode_kernel, ROWS | STRIDES | {"partial"}),
    "shares": (shares_kernel, {"q_ptr", "k_ptr", *(name for name in STRIDES if name[0] in "qk")}),
    "choice": (choice_kernel, set()),
    "hopper": (hopper_kernel, {"q_desc", "k_desc", "v_desc", "o_desc"}),
}


@pytest.mark.parametrize("name", SPECIALISED)
def test_kernels_are_compiled_by_strides_and_addresses_of_rows_and_by_no_size(name: str) -> None:
    kernel, wanted = SPECIALISED[name]
    looked_at = {each.name for each in kernel.params if not (each.is_constexpr or each.do_not_specialize)}
    assert looked_at == wanted


integers = st.one_of(st.integers(0, 64), st.integers(2**31 - 40, 2**31 + 40), st.integers(0, 2**40))


@given(st.lists(integers, min_size=4, max_size=4), st.lists(integers, min_size=4, max_size=4))
def test_integers_with_one_key_are_compiled_alike(first: list[int], second: list[int]) -> None:
    def triton_says(numbers: list[int]) -> list[Any]:
        sizes = [native_specialize_impl(BaseBackend, each, False, False, True) for each in numbers[:2]]
        return sizes + [native_specialize_impl(BaseBackend, each, False, True, True) for each in numbers[2:]]

    if assumptions(first[:2], first[2:]) == assumptions(second[:2], second[2:]):
        assert triton_says(first) == triton_says(second)


class Triton:
    """Stands for a kernel's `run`: compiles nothing, and notes what is compiled and what is launched how."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kernel: Any) -> None:
        self.through: list[tuple[Any, ...]] = []
        self.direct: list[tuple[Any, ...]] = []
        monkeypatch.setattr(kernel, "run", self.run)
        monkeypatch.setattr(launch, "current_stream", lambda index: 77)
        monkeypatch.setattr(
            "hcompile.codegen.triton_gpu.inputs.valid_ranges",
            lambda mask: mask.new_zeros((len(mask), 3), dtype=torch.int32),
        )
        monkeypatch.setattr(launch, "_TRIED", (triton.__version__,))

    def run(self, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        self.through.append(
            tuple(each.data_ptr() if hasattr(each, "data_ptr") else each for each in arguments)
        )
        return SimpleNamespace(
            run=lambda *arguments: self.direct.append(arguments), function=7, packed_metadata=(4, 1, 0)
        )


def inputs(
    queries: int, length: int, batch: int = 1, head_dim: int = 128
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        torch.zeros(batch, queries, 4, head_dim).transpose(1, 2),
        torch.zeros(batch, length, 2, head_dim).transpose(1, 2),
        torch.zeros(batch, length, 2, head_dim).transpose(1, 2),
    )


PARAMS = torch.tensor([[ALL, 0], [100, 8], [300, 0], [7, 70]], dtype=torch.int32)
Bound = tuple[Any, Triton]
Make = Callable[[str], Bound]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    def bound(name: str) -> Bound:
        module: Any = {"prefill": prefill, "decode": decode}[name]
        noted = Triton(monkeypatch, SPECIALISED[name][0])
        return module.bind(schedule(f"triton_{name}")), noted

    return bound


LENGTHS = (1000, 1001, 1024, 16, 1, 4096)


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_calls_of_all_lengths_start_what_the_first_one_was_given(make: Make, name: str) -> None:
    kernel, noted = make(name)
    for length in LENGTHS:
        for _ in range(2):
            kernel(*inputs(1, length), None, PARAMS, length - 1, 0.1, True)
    assert (len(noted.through), len(noted.direct)) == (1, 2 * len(LENGTHS) - 1)


def test_a_table_of_any_width_starts_what_the_first_one_was_given(make: Make) -> None:
    kernel, noted = make("decode")
    pages = torch.zeros(7, 2, 16, 128)
    for width in (4, 5, 16, 32):
        table = torch.zeros(1, width, dtype=torch.int32)
        kernel(inputs(1, 1)[0], pages, pages, None, PARAMS, 60, 0.1, True, table=table)
    assert (len(noted.through), len(noted.direct)) == (1, 3)


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_what_is_passed_is_what_triton_is_given(
    make: Make, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kernel, noted = make(name)
    memory = torch.zeros(2**16)  # Outputs of both calls have one address.
    monkeypatch.setattr(
        f"hcompile.codegen.triton_gpu.{name}.empty_output", lambda q: memory[: q.numel()].view(q.shape)
    )
    call = (*inputs(3, 500, batch=2), torch.ones(2, 500, dtype=torch.bool), PARAMS, 497, 0.1, True)
    for _ in range(2):
        kernel(*call)
    (given,), (passed,) = noted.through, noted.direct
    assert passed[1:FIXED] == (4 if name == "decode" else 1, 1, 77, 7, (4, 1, 0), None, None, None)
    names = SPECIALISED[name][0].arg_names
    assert len(passed) - FIXED == len(given) == len(names)
    for argument, ours, tritons in zip(names, passed[FIXED:], given, strict=True):
        # A call makes these two for itself.
        assert argument in ("valid", "partial") or (ours == tritons and type(ours) is type(tritons)), argument


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_other_strides_and_other_constants_are_asked_for(make: Make, name: str) -> None:
    kernel, noted = make(name)
    kernel(*inputs(1, 100), None, PARAMS, 99, 0.1, True)
    kernel(*inputs(1, 100), None, PARAMS, 99, 0.1, False)
    kernel(*inputs(1, 100), torch.ones(1, 100, dtype=torch.bool), PARAMS, 99, 0.1, True)
    kernel(*inputs(1, 100, head_dim=24), None, PARAMS, 99, 0.1, True)
    kernel(*(each.bfloat16() for each in inputs(1, 100)), None, PARAMS, 99, 0.1, True)
    rows_24_apart = [torch.zeros(1, each.shape[1], each.shape[2], 136)[..., :128] for each in inputs(1, 100)]
    kernel(*rows_24_apart, None, PARAMS, 99, 0.1, True)
    assert (len(noted.through), len(noted.direct)) == (6, 0)


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_an_address_that_is_no_multiple_of_16_is_shown_to_triton_each_time(make: Make, name: str) -> None:
    kernel, noted = make(name)
    q, k, v = inputs(1, 100)
    odd = torch.zeros(q.numel() + 1)[1:].view(q.shape)
    for _ in range(2):
        kernel(odd, k, v, None, PARAMS, 99, 0.1, True)
    assert (len(noted.through), len(noted.direct)) == (2, 0)
    for _ in range(2):
        kernel(q, k, v, None, PARAMS, 99, 0.1, True)
    assert (len(noted.through), len(noted.direct)) == (3, 1)


def test_a_profiler_is_told_of_launches_by_triton(make: Make) -> None:
    kernel, noted = make("decode")
    call = (*inputs(1, 100), None, PARAMS, 99, 0.1, True)
    kernel(*call)
    hooks = triton.knobs.runtime.launch_enter_hook
    hooks.add(print)
    try:
        kernel(*call)
    finally:
        hooks.remove(print)
    kernel(*call)
    assert (len(noted.through), len(noted.direct)) == (2, 1)


def test_a_version_of_triton_that_was_not_tried_launches_itself(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, noted = make("decode")
    monkeypatch.setattr(launch, "_TRIED", ("0.0.",))
    kernel: Any = decode.bind(schedule("triton_decode"))
    for _ in range(2):
        kernel(*inputs(1, 100), None, PARAMS, 99, 0.1, True)
    assert (len(noted.through), len(noted.direct)) == (2, 0)


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_routed_heads_are_refused_where_no_kernel_serves_them(make: Make, name: str) -> None:
    kernel, noted = make(name)
    routed = torch.tensor([[ALL, 0], [100, 8], [0, 300], [0, 500]], dtype=torch.int32)
    for params, refused in ((PARAMS, False), (routed, True), (PARAMS, False), (routed, True)):
        if not refused:
            kernel(*inputs(1, 100), None, params, 99, 0.1, True)
            continue
        with pytest.raises(KernelError, match="2 heads are routed, and this kernel serves none"):
            kernel(*inputs(1, 100), None, params, 99, 0.1, True)
    assert (len(noted.through), len(noted.direct)) == (1, 1)


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_a_wrong_call_is_refused_after_a_right_one(make: Make, name: str) -> None:
    kernel, noted = make(name)
    q, k, v = inputs(1, 100)
    right = {"q": q, "k": k, "v": v, "key_mask": None, "head_params": PARAMS, "scale": 0.1}
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"k": k[:, :, :99]}, "do not fit q"),
        ({"v": v.bfloat16()}, "wanted one dtype"),
        ({"head_params": PARAMS[:3]}, "head_params is"),
        ({"head_params": PARAMS.long()}, "head_params is"),
        ({"head_params": PARAMS.to("meta")}, "move all to one device"),
        ({"key_mask": torch.ones(1, 99, dtype=torch.bool)}, "key_mask is"),
        ({"key_mask": torch.ones(1, 100)}, "key_mask is"),
        ({"scale": 0.0}, "scale is"),
    )
    for change, message in changes:
        kernel(**right, q_offset=99, causal=True)
        with pytest.raises(KernelError, match=message):
            kernel(**{**right, **change}, q_offset=99, causal=True)
    assert len(noted.through) == 1


def test_parameters_that_have_changed_are_read_anew(make: Make) -> None:
    kernel, noted = make("prefill")
    params = PARAMS.clone()
    place = SPECIALISED["prefill"][0].arg_names.index("long_heads")
    wanted = []
    for window in (ALL, 50, ALL):
        params[1, 0] = window
        kernel(*inputs(1, 100), None, params, 99, 0.1, True)
        wanted.append(3 if window == ALL else 2)
    launched = [noted.through[0], *(each[FIXED:] for each in noted.direct)]
    assert [each[place] for each in launched] == wanted


class Metadata(NamedTuple):
    num_warps: int
    tensordesc_meta: tuple[dict[str, int], ...] | None


def test_descriptors_become_the_arguments_that_their_code_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = SimpleNamespace(
        src=SimpleNamespace(
            signature={
                "q": "tensordesc<bf16[1,1,64,128],NVMMASharedLayout([1,2])>",
                "n": "i32",
                "N": "constexpr",
            }
        ),
        metadata=Metadata(4, ({"swizzle": 3},)),
    )
    made: list[tuple[Any, Any]] = []
    monkeypatch.setattr(
        triton.runtime.driver, "_active", SimpleNamespace(launcher_cls=lambda *given: made.append(given))
    )
    descriptors.launcher_of_arguments(compiled)
    ((source, metadata),) = made
    assert list(source.signature.values()) == ["nvTmaDesc", *["i32"] * 4, *["i64"] * 4, "i32", "constexpr"]
    assert metadata.tensordesc_meta is None and metadata.num_warps == 4


def test_a_descriptor_is_made_once_for_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make(descriptor: Any, meta: Any, *rest: Any) -> list[Any]:
        assert descriptor.padding == "zero" and descriptor.block_shape == [1, 1, 64, 128] and meta == "meta"
        made.append(descriptor.base.data_ptr())
        return [len(made), *descriptor.shape, *descriptor.strides]

    monkeypatch.setattr(descriptors, "make_tensordesc_arg", make)
    described = descriptors.Described([1, 1, 64, 128], None)
    tensors = [torch.zeros(1, 2, 5, 128) for _ in range(20)]
    first = described.arguments(tensors[0], "meta")
    assert first == [1, 1, 2, 5, 128, 1280, 640, 128, 1]
    assert described.arguments(tensors[0], "meta") is first
    for tensor in tensors:
        described.arguments(tensor, "meta")
    assert made == [each.data_ptr() for each in tensors] and len(described._known) <= 16
