"""The lists of routed heads that the kernels choose are those of the reference, under Triton's interpreter."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.codegen.triton_gpu.routed import CASES

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def answers() -> dict[str, list[str]]:
    """The faults of each case, with inputs that are fresh each time."""
    seed = random.SystemRandom().randrange(2**32)
    command = [sys.executable, "-m", "tests.codegen.triton_gpu.routed", str(seed)]
    child = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert child.returncode == 0, f"seed {seed}: {child.stderr[-2000:]}"
    answer: dict[str, list[str]] = json.loads(child.stdout.splitlines()[-1])
    return answer | {"seed": [str(seed)]}


@pytest.mark.parametrize(
    "case",
    [
        *(f"{case.name} {torch.float32}" for case in CASES),
        *(f"{case.name} {torch.float16}" for case in CASES[:3]),
        "ties",
    ],
)
def test_lists_hold_the_share_in_the_fewest_blocks(answers: dict[str, list[str]], case: str) -> None:
    assert answers[case] == [], answers["seed"]
