"""Linear far fields on a GPU: right in their dtypes, with padding and behind a cache, in CUDA graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hcompile.far_field import FarFields
from tests.codegen.far_cases import FarCall, assert_right, far_call, padding
from tests.codegen.triton_gpu.test_on_gpu import default_kernels, kernel_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.filterwarnings("ignore"),
]
DTYPES = (torch.bfloat16, torch.float16)
# Maps are multiplied as the sum of two bfloat16 or two float16, which leaves 2 ** -16 of it.
MAPS_UNIT = 2**-16
CASES: dict[str, dict[str, Any]] = {
    "prefill": {"q_len": 1500, "kv_len": 1500},
    "ragged": {"q_len": 333, "kv_len": 333, "batch": 2},
    "after-a-cache": {"q_len": 300, "kv_len": 1333},
    "padding": {"q_len": 700, "kv_len": 700, "batch": 4, "key_mask": padding(700)},
    "one-query": {"q_len": 1, "kv_len": 900},
    "the-first-token": {"q_len": 1, "kv_len": 1},
    "within-the-windows": {"q_len": 300, "kv_len": 300, "narrowest": 310},
    "wide-heads": {"q_len": 500, "kv_len": 500, "head_dim": 128, "spread": 0.12},
    "odd-heads": {"q_len": 500, "kv_len": 500, "head_dim": 80, "spread": 0.12},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        ("decode", "one-query"),
        *((kernel, name) for kernel in ("portable", "hopper") for name in CASES if name != "one-query"),
    ],
)
def test_far_fields_are_what_the_reference_says(kernel: str, name: str, dtype: torch.dtype) -> None:
    case = far_call(**CASES[name], dtype=dtype, seed=torch.seed() % 2**31)
    run = kernel_of(default_kernels(case.call.q.shape[3]), kernel)
    out = case.on("cuda").run(run).cpu()
    assert_right(case, out, maps_unit=MAPS_UNIT, features_unit=torch.finfo(dtype).eps / 2)


@pytest.mark.parametrize("kernel", ["portable", "hopper"])
def test_a_graph_computes_them_again(kernel: str) -> None:
    run = kernel_of(default_kernels(64), kernel)
    case = far_call(600, 600, dtype=torch.bfloat16).on("cuda")
    out = case.run(run)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = case.run(run)
    captured.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, out)


@pytest.mark.parametrize("kernel", ["portable", "hopper"])
def test_heads_may_get_and_lose_their_far_field(kernel: str) -> None:
    run = kernel_of(default_kernels(64), kernel)
    case = far_call(400, 400, dtype=torch.bfloat16).on("cuda")
    call, plain = case.call, case.call.run(run)
    out = case.run(run)
    none = FarCall(call, FarFields(case.far.maps, torch.zeros_like(case.far.heads)))
    assert torch.equal(none.run(run), plain)
    assert torch.equal(out[:, ~case.far.heads], plain[:, ~case.far.heads])
    case.far.heads.copy_(torch.zeros_like(case.far.heads))
    assert torch.equal(case.run(run), plain)
