"""The GPU kernels compile ahead of time for GPUs that are not here, and say what they take of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hcompile.codegen.triton_gpu import decode, hopper_prefill, prefill
from hcompile.codegen.triton_gpu.ahead import Compiled, Source, compile_ahead, shared_bytes
from hcompile.errors import KernelError
from hcompile.schedules.template import GpuProblem, get_template
from tests.codegen.triton_gpu.cases import schedule

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset:UserWarning")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


def check(compiled: Compiled, capability: int) -> None:
    assert compiled.fits(capability)
    assert compiled.cubin.startswith(b"\x7fELF")
    assert 0 < compiled.registers <= 255


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_prefill_compiles(capability: int) -> None:
    chosen = schedule("triton_prefill", capability=capability)
    source = prefill.source(chosen, "bfloat16", 128, group=4, causal=True, masked=False)
    compiled = compile_ahead(source, capability)
    check(compiled, capability)
    assert ("wgmma" in compiled.ptx) == (capability == 90)


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_decode_compiles(capability: int) -> None:
    source = decode.source(
        schedule("triton_decode"), "bfloat16", 128, group=4, causal=True, masked=True, page=64
    )
    check(compile_ahead(source, capability), capability)


@pytest.mark.parametrize(
    ("head_dim", "dtype", "masked", "lists"),
    [
        (128, "bfloat16", False, False),
        (64, "float16", True, False),
        (256, "bfloat16", False, False),
        (96, "bfloat16", False, True),
    ],
)
def test_hopper_prefill_multiplies_by_warpgroups_without_spills_to_speak_of(
    head_dim: int, dtype: str, masked: bool, lists: bool
) -> None:
    chosen = schedule("hopper_prefill", head_dim, **({"keys": 64} if lists else {}))
    source = hopper_prefill.source(chosen, dtype, head_dim, group=4, causal=True, masked=masked, lists=lists)
    compiled = compile_ahead(source, 90)
    check(compiled, 90)
    assert "wgmma.mma_async" in compiled.ptx and "cp.async.bulk.tensor" in compiled.ptx
    # What is spilled are scalars of a task. A thread's share of the accumulators alone takes 512 bytes.
    assert compiled.stack_bytes <= 256


def test_the_largest_rings_that_a_space_calls_legal_fit() -> None:
    problem = GpuProblem("bfloat16", 128, 90, shared_bytes(90))
    legal = get_template("hopper_prefill").space(problem).enumerate()
    largest = max(legal, key=lambda each: each["stages"] * each["keys"] - each["share"])
    source = hopper_prefill.source(largest, "bfloat16", 128, group=4, causal=True, masked=False)
    assert compile_ahead(source, 90).fits(90)


def test_a_gpu_that_is_not_known_is_one_line() -> None:
    with pytest.raises(KernelError, match=r"^sm_75 is not known: choose one of 80, "):
        shared_bytes(75)


def test_too_much_shared_memory_compiles_and_is_said_not_to_fit() -> None:
    deep = schedule("hopper_prefill", stages=4)
    source = hopper_prefill.source(deep, "bfloat16", 128, group=4, causal=True, masked=False)
    assert not compile_ahead(source, 90).fits(90)


def test_what_does_not_compile_is_one_line_with_the_kernel_and_the_target() -> None:
    good = prefill.source(schedule("triton_prefill"), "bfloat16", 128, group=4, causal=True, masked=False)
    bad = Source(good.kernel, good.types, {**good.constants, "ROWS": 100}, good.warps)
    with pytest.raises(KernelError, match=r"^prefill does not compile for sm_90: .+$"):
        compile_ahead(bad, 90)
