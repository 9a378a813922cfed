"""What launchers make of the tensors of a call."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hcompile.codegen.triton_gpu.decode import bind
from hcompile.codegen.triton_gpu.inputs import aligned, check_call
from hcompile.errors import KernelError
from hcompile.operator import empty_output
from tests.codegen.triton_gpu.cases import schedule


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
        torch.zeros(1, 1, 5, 8, dtype=torch.bfloat16).expand(1, 2, 5, 8),
    ],
    ids=["rows 24 bytes apart", "strided rows", "start at 2 bytes", "one head for two"],
)
def test_rows_that_it_cannot_read_are_copied(tensor: torch.Tensor) -> None:
    copy = aligned(tensor)
    assert copy.is_contiguous() and copy.data_ptr() % 16 == 0 and torch.equal(copy, tensor)


Q = torch.empty(2, 4, 9, 8)
K = torch.empty(2, 2, 9, 8)
PARAMS = torch.empty(4, 2, dtype=torch.int32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": torch.empty(2, 3, 9, 8), "v": torch.empty(2, 3, 9, 8)}, "4 query heads are no multiple of 3"),
        ({"k": torch.empty(2, 0, 9, 8), "v": torch.empty(2, 0, 9, 8)}, "4 query heads are no multiple of 0"),
        ({"k": torch.empty(2, 2, 9, 16), "v": torch.empty(2, 2, 9, 16)}, "do not fit q"),
        ({"v": torch.empty(2, 2, 8, 8)}, "do not fit q"),
        ({"q": torch.empty(4, 9, 8)}, "do not fit q"),
        ({"k": K.bfloat16()}, "q, k, v are torch.float32, torch.bfloat16, torch.float32"),
        ({"head_params": torch.empty(5, 2, dtype=torch.int32)}, r"head_params is torch.int32 \(5, 2\)"),
        ({"head_params": torch.empty(4, 2)}, "head_params is torch.float32"),
        ({"key_mask": torch.ones(2, 12, dtype=torch.bool)}, r"key_mask is torch.bool \(2, 12\)"),
        ({"key_mask": torch.ones(2, 9, dtype=torch.int32)}, "key_mask is torch.int32"),
        ({"head_params": PARAMS.to("meta")}, "move all to one device"),
        ({"scale": 0.0}, "scale is 0.0, wanted above 0"),
    ],
)
def test_what_a_kernel_would_read_past_or_compute_wrongly_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    call: dict[str, Any] = {
        "q": Q,
        "k": K,
        "v": K,
        "key_mask": None,
        "head_params": PARAMS,
        "scale": 0.3,
    }
    check_call(**call)
    with pytest.raises(KernelError, match=message):
        check_call(**{**call, **changes})


@pytest.mark.parametrize(
    "table",
    [
        torch.zeros(2, 3, dtype=torch.int32),
        torch.zeros(1, 4, dtype=torch.int32),
        torch.zeros(2, 4, dtype=torch.int64),
        torch.zeros(4, 2, dtype=torch.int32).t(),
    ],
    ids=["too few pages", "too few sequences", "int64", "columns"],
)
def test_a_table_that_does_not_name_all_keys_is_refused(table: torch.Tensor) -> None:
    kernel: Any = bind(schedule("triton_decode"))
    pages = torch.empty(7, 2, 16, 8)
    with pytest.raises(KernelError, match=r"^decode: table is "):
        kernel(Q[:, :, :1], pages, pages, None, PARAMS, 63, 0.3, True, table=table)


def test_a_batch_that_differs_is_refused() -> None:
    with pytest.raises(KernelError, match="the batch differs"):
        check_call(Q, K[:1], K[:1], None, PARAMS, 0.3)
