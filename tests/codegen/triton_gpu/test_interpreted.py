"""The portable GPU kernels compute what the reference says, under Triton's interpreter."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.codegen.triton_gpu.cases import DECODE, DECODE_SHAPES, PREFILL, PREFILL_SHAPES

# float32 through and through. As hcompile.tuning.check derives it, with u = 2 ** -24, 150 keys and heads of 32: scores
# are wrong by (D + 2) u sum|q k| scale = 1.1e-5, the exponential by 4e-7, sums by 2 sqrt(keys) u = 1.5e-6; and twice
# the sum of these.
TOLERANCE = 2.6e-5
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def errors() -> dict[str, float | str]:
    """The error of each case, with inputs that are fresh each time."""
    seed = random.SystemRandom().randrange(2**32)
    command = [sys.executable, "-m", "tests.codegen.triton_gpu.interpreted", str(seed)]
    child = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert child.returncode == 0, f"seed {seed}: {child.stderr[-2000:]}"
    answer: dict[str, float | str] = json.loads(child.stdout.splitlines()[-1])
    return answer | {"seed": seed}


@pytest.mark.parametrize("case", [case.name for case in PREFILL + PREFILL_SHAPES])
def test_prefill_is_what_the_reference_says(errors: dict[str, float | str], case: str) -> None:
    error = errors[f"prefill {case}"]
    assert isinstance(error, float) and error < TOLERANCE, (error, errors["seed"])


@pytest.mark.parametrize("case", [*(case.name for case in DECODE + DECODE_SHAPES), "pages", "pages-padding"])
def test_decode_is_what_the_reference_says(errors: dict[str, float | str], case: str) -> None:
    error = errors[f"decode {case}"]
    assert isinstance(error, float) and error < TOLERANCE, (error, errors["seed"])


def test_the_valid_keys_of_a_mask_are_found_in_one_launch(errors: dict[str, float | str]) -> None:
    assert errors["valid ranges"] == 0, errors["seed"]


@pytest.mark.parametrize(
    "case", ["prefill", "after-a-cache", "padding", "the-first-token", "within-the-windows", "one-query"]
)
def test_far_fields_are_what_the_reference_says(errors: dict[str, float | str], case: str) -> None:
    assert errors[f"far {case}"] == 0.0, (errors[f"far {case}"], errors["seed"])
