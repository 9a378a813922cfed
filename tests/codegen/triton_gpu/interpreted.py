"""Runs the cases of the portable kernels under Triton's interpreter and prints their errors as JSON.

A process of its own: whether Triton interprets is decided when it is imported.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch

from hcompile.codegen.triton_gpu import decode, prefill
from hcompile.codegen.triton_gpu.inputs import valid_ranges
from hcompile.codegen.triton_gpu.kernels.valid_range import BLOCK
from hcompile.reference import attention_reference
from tests.codegen.triton_gpu.cases import DECODE, PREFILL, error_of, schedule

PREFILL_SCHEDULE = schedule("triton_prefill", rows=32, keys=32)
DECODE_SCHEDULE = schedule("triton_decode", keys=32, splits=4)


def paged_error(seed: int) -> float:
    """Return the largest error of a call whose keys stand in pages, against the same keys side by side."""
    generator = torch.Generator().manual_seed(seed)
    page, queries, length = 16, 3, 147
    table = torch.randperm(40, generator=generator)[:20].reshape(2, 10).to(torch.int32)
    k_pages, v_pages = (torch.randn(40, 2, page, 16, generator=generator) for _ in range(2))
    q = torch.randn(2, 4, queries, 16, generator=generator)
    params = torch.tensor([[2**31 - 1, 0], [20, 5], [40, 0], [7, 70]], dtype=torch.int32)
    k, v = (
        pages[table.long()].permute(0, 2, 1, 3, 4).reshape(2, 2, 160, 16)[:, :, :length]
        for pages in (k_pages, v_pages)
    )
    offset = length - queries
    wanted = attention_reference(q.double(), k.double(), v.double(), None, params, offset, 0.25, True)
    kernel: Any = decode.bind(DECODE_SCHEDULE)  # It takes one argument more than others.
    out = kernel(q, k_pages, v_pages, None, params, offset, 0.25, True, table=table)
    return float((out - wanted).abs().max())


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


def main(seed: int) -> None:
    errors: dict[str, float | str] = {"valid ranges": wrong_ranges(seed)}
    for group, kernel, cases in (
        ("prefill", prefill.bind(PREFILL_SCHEDULE), PREFILL),
        ("decode", decode.bind(DECODE_SCHEDULE), DECODE),
    ):
        for case in cases:
            try:
                errors[f"{group} {case.name}"] = error_of(kernel, case, seed, torch.float32, "cpu")
            except AssertionError as error:
                errors[f"{group} {case.name}"] = str(error)
    errors["decode pages"] = paged_error(seed)
    print(json.dumps(errors))  # noqa: T201  this is how a child answers


if __name__ == "__main__":
    main(int(sys.argv[1]))
