"""What launchers make of the tensors of a call."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hcompile.codegen.triton_gpu.inputs import aligned, check_shapes, empty_output, valid_ranges
from hcompile.errors import KernelError


@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=4))
def test_valid_ranges_hold_all_valid_keys_and_tell_of_holes(rows: list[list[bool]]) -> None:
    ranges = valid_ranges(torch.tensor(rows)).tolist()
    for row, (first, end, holes) in zip(rows, ranges, strict=True):
        valid = [key for key, there in enumerate(row) if there]
        if valid:
            assert (first, end) == (valid[0], valid[-1] + 1)
            assert holes == (end - first != len(valid))
        else:
            assert first == end and not holes


def test_an_output_lies_in_memory_as_models_read_it() -> None:
    out = empty_output(torch.empty(2, 3, 5, 8))
    assert out.shape == (2, 3, 5, 8) and out.transpose(1, 2).is_contiguous()


def test_rows_that_the_copy_engine_can_read_are_not_copied() -> None:
    tokens_first = torch.zeros(2, 5, 3, 8, dtype=torch.bfloat16).transpose(1, 2)
    assert aligned(tokens_first) is tokens_first


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1, 2, 5, 12, dtype=torch.bfloat16)[..., :8],
        torch.zeros(1, 2, 8, 5, dtype=torch.bfloat16).transpose(2, 3),
        torch.zeros(81, dtype=torch.bfloat16)[1:].view(1, 2, 5, 8),
    ],
    ids=["rows 24 bytes apart", "strided rows", "start at 2 bytes"],
)
def test_rows_that_it_cannot_read_are_copied(tensor: torch.Tensor) -> None:
    copy = aligned(tensor)
    assert copy.is_contiguous() and copy.data_ptr() % 16 == 0 and torch.equal(copy, tensor)


@pytest.mark.parametrize(
    ("k", "v", "params", "message"),
    [
        ((1, 3, 9, 8), (1, 3, 9, 8), (4, 2), "do not fit q"),
        ((1, 2, 9, 16), (1, 2, 9, 16), (4, 2), "do not fit q"),
        ((1, 2, 9, 8), (1, 2, 8, 8), (4, 2), "do not fit q"),
        ((1, 2, 9, 8), (1, 2, 9, 8), (5, 2), "head_params"),
    ],
)
def test_tensors_that_a_kernel_would_read_past_are_refused(
    k: tuple[int, ...], v: tuple[int, ...], params: tuple[int, ...], message: str
) -> None:
    q = torch.empty(1, 4, 9, 8)
    with pytest.raises(KernelError, match=message):
        check_shapes(q, torch.empty(k), torch.empty(v), torch.empty(params))
