"""The GPU kernels compile ahead of time for GPUs that are not here, and say what they take of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hcompile.codegen.triton_gpu.ahead import shared_bytes
from hcompile.errors import KernelError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of each source of tests/codegen/triton_gpu/compiled.py, compiled anew."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    command = [sys.executable, "-m", "tests.codegen.triton_gpu.compiled"]
    child = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert child.returncode == 0, child.stderr[-2000:]
    answer: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return answer


def check(answer: dict[str, Any]) -> None:
    assert "error" not in answer, answer["error"]
    assert answer["elf"] and answer["fits"] and 0 < answer["registers"] <= 255


@pytest.mark.parametrize("capability", [80, 86, 90, 100])
@pytest.mark.parametrize("kernel", ["prefill", "decode"])
def test_portable_kernels_compile(answers: dict[str, Any], kernel: str, capability: int) -> None:
    answer = answers[f"{kernel} sm_{capability}"]
    check(answer)
    # 16 rows are too few for a warpgroup.
    assert answer["wgmma"] == (kernel == "prefill" and capability == 90)


@pytest.mark.parametrize("name", ["hopper", "hopper heads of 64", "hopper heads of 256", "hopper lists"])
def test_the_hopper_kernel_multiplies_by_warpgroups_and_keeps_its_tiles_in_registers(
    answers: dict[str, Any], name: str
) -> None:
    check(answers[name])
    assert answers[name]["wgmma"] and answers[name]["tensor copies"]
    # What is spilled are scalars of a task. A thread's least tile, 64 x 64 scores of a warpgroup, takes 128 bytes, and
    # is spilled whole or in most of it once registers do not suffice.
    assert answers[name]["stack_bytes"] < 128


@pytest.mark.parametrize("heads", ["float16 64", "bfloat16 128", "bfloat16 256"])
@pytest.mark.parametrize("kernel", ["chunk_sums", "add_up", "prefill"])
def test_far_fields_fit_gpus_with_little_shared_memory_and_spill_little(
    answers: dict[str, Any], kernel: str, heads: str
) -> None:
    answer = answers[f"far {kernel} {heads}"]
    check(answer)
    assert answer["stack_bytes"] < 256


@pytest.mark.parametrize("heads", ["bfloat16 128", "float16 64", "bfloat16 256", "float32 24"])
def test_routing_compiles_and_two_programs_of_heads_of_128_fit_a_multiprocessor(
    answers: dict[str, Any], heads: str
) -> None:
    shares, choice = answers[f"block_shares {heads}"], answers[f"choose_blocks {heads}"]
    check(shares)
    check(choice)
    assert shares["wgmma"] == (heads != "float32 24")
    assert shares["registers"] <= 128 and choice["stack_bytes"] == 0
    assert not shares["stack_bytes"] or heads == "float32 24"


@pytest.mark.parametrize("name", ["endless loop", "far store"])
def test_kernels_that_misbehave_in_a_benchmark_compile(answers: dict[str, Any], name: str) -> None:
    check(answers[name])


def test_the_largest_rings_that_a_space_calls_legal_fit(answers: dict[str, Any]) -> None:
    check(answers["hopper largest"])


def test_too_much_shared_memory_compiles_and_is_said_not_to_fit(answers: dict[str, Any]) -> None:
    assert answers["hopper too large"]["fits"] is False


def test_what_does_not_compile_is_one_line_with_the_kernel_and_the_target(answers: dict[str, Any]) -> None:
    assert re.fullmatch(r"prefill does not compile for sm_90: .+", answers["odd rows"]["error"])


def test_a_gpu_that_is_not_known_is_one_line() -> None:
    with pytest.raises(KernelError, match=r"^sm_75 is not known: choose one of 80, "):
        shared_bytes(75)
