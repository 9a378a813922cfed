"""Runs the cases of the portable kernels under Triton's interpreter and prints their errors as JSON.

A process of its own: whether Triton interprets is decided when it is imported.
"""

from __future__ import annotations

import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch

from hcompile.codegen.triton_gpu import decode, prefill
from hcompile.codegen.triton_gpu.inputs import valid_ranges
from hcompile.codegen.triton_gpu.kernels.valid_range import BLOCK
from tests.codegen.far_cases import assert_right, far_call, padding
from tests.codegen.triton_gpu.cases import (
    DECODE,
    DECODE_SHAPES,
    PREFILL,
    PREFILL_SHAPES,
    error_of,
    schedule,
)
from tests.codegen.triton_gpu.paged import Paged

PREFILL_SCHEDULE = schedule("triton_prefill", rows=32, keys=32)
DECODE_SCHEDULE = schedule("triton_decode", keys=32, splits=4)


def wrong_ranges(seed: int) -> int:
    """Return how many rows of random masks, some empty, some whole, have another range of valid keys than they say."""
    generator = torch.Generator().manual_seed(seed)
    wrong = 0
    for length in (1, 7, BLOCK, BLOCK + 13):
        share = torch.tensor([0.0, 1.0, 0.5, 2.0 / length])[:, None]
        mask = torch.rand(4, length, generator=generator) < share
        for row, (first, end, holes) in zip(mask.tolist(), valid_ranges(mask).tolist(), strict=True):
            valid = [key for key, there in enumerate(row) if there] or [0]
            wanted = (valid[0], valid[-1] + 1) if any(row) else (0, 0)
            wrong += (first, end) != wanted or bool(holes) != (end - first != sum(row))
    return wrong


def far_fields(seed: int) -> dict[str, float | str]:
    """Return 0 for each call with linear far fields that is right, and what is wrong with the others."""
    cases = {
        "prefill": far_call(160, 160, head_dim=16, seed=seed),
        "after-a-cache": far_call(60, 250, head_dim=24, seed=seed),
        "padding": far_call(140, 140, batch=4, head_dim=8, key_mask=padding(140), seed=seed),
        "the-first-token": far_call(1, 1, head_dim=16, seed=seed),
        "within-the-windows": far_call(140, 140, head_dim=8, narrowest=150, seed=seed),
        "one-query": far_call(1, 400, head_dim=16, seed=seed),
    }
    kernels = {name: prefill.bind(PREFILL_SCHEDULE) for name in cases}
    kernels["one-query"] = decode.bind(DECODE_SCHEDULE)
    errors: dict[str, float | str] = {}
    for name, case in cases.items():
        try:
            assert_right(case, case.run(kernels[name]))
            errors[f"far {name}"] = 0.0
        except AssertionError as error:
            errors[f"far {name}"] = str(error)
    return errors


def main(seed: int) -> None:
    errors: dict[str, float | str] = {"valid ranges": wrong_ranges(seed)}
    for group, kernel, cases in (
        ("prefill", prefill.bind(PREFILL_SCHEDULE), PREFILL + PREFILL_SHAPES),
        ("decode", decode.bind(DECODE_SCHEDULE), DECODE + DECODE_SHAPES),
    ):
        for case in cases:
            try:
                errors[f"{group} {case.name}"] = error_of(kernel, case, seed, torch.float32, "cpu")
            except AssertionError as error:
                errors[f"{group} {case.name}"] = str(error)
    for masked in (False, True):
        paged = Paged.random(seed, 147, torch.float32, masked=masked)
        out = paged.run(decode.bind(DECODE_SCHEDULE), paged.arguments("cpu"))
        errors[f"decode pages{'-padding' * masked}"] = paged.error(out)
    errors |= far_fields(seed)
    print(json.dumps(errors))  # noqa: T201  this is how a child answers


if __name__ == "__main__":
    main(int(sys.argv[1]))
