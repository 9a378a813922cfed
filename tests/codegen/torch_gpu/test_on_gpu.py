"""The library's attention on a GPU: what it can express it computes, and our kernel computes the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hcompile.codegen import get_backend
from hcompile.patterns import Dense, Local
from hcompile.schedules import Schedule
from hcompile.schedules.templates.torch_sdpa import CUDNN, FLASH, NAME
from tests.codegen.triton_gpu.cases import Case, error_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.filterwarnings("ignore"),
]
# Weights are rounded, their sum may be one of rounded weights, and the output is rounded: each by 2 ** -8 of the mean
# of |V| at most in bfloat16, an eighth of it in float16.
TOLERANCES = {torch.bfloat16: 3 * 2**-8, torch.float16: 3 * 2**-11}
LIBRARIES = {FLASH: "_scaled_dot_product_flash_attention", CUDNN: "_scaled_dot_product_cudnn_attention"}
"""The operator of torch that each is."""

RAGGED = Case("ragged", 333, 333, (Dense(),) * 8, head_dim=128)
EXPRESSED = (
    RAGGED,
    replace(RAGGED, name="bidirectional", causal=False),
    replace(RAGGED, name="fewer-queries-bidirectional", q_len=100, causal=False),
    replace(RAGGED, name="one-query-bidirectional", q_len=1, causal=False),
    replace(RAGGED, name="shorter-than-a-tile", q_len=3, kv_len=3),
    replace(RAGGED, name="one-head-a-group", kv_heads=8),
    replace(RAGGED, name="groups-of-three", heads=(Dense(),) * 6),
    replace(RAGGED, name="head-of-64", head_dim=64),
    replace(RAGGED, name="heads-first", tokens_first=False),
    replace(RAGGED, name="fused", fused=True),
    replace(RAGGED, name="window-of-all-keys", heads=(Local(333),) * 8),
)
LEFT_TO_US = (
    replace(RAGGED, name="padding", mask="padding"),
    replace(RAGGED, name="padding-bidirectional", mask="padding", causal=False),
    replace(RAGGED, name="fewer-queries", q_len=100),
    replace(RAGGED, name="one-query", q_len=1),
    replace(RAGGED, name="one-key", q_len=1, kv_len=1),
    replace(RAGGED, name="a-window", heads=(Dense(),) * 7 + (Local(100, 8),)),
)


class Operators(TorchDispatchMode):
    """Notes the names of torch's operators that are called while it is entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, operator: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        self.names.add(operator.overloadpacket.__name__)
        return operator(*given, **(named or {}))


def checked(library: int, case: Case, dtype: torch.dtype, folder: Path) -> set[str]:
    """Compare a built and loaded kernel with the reference, and return which of the libraries' operators it called."""
    backend = get_backend(NAME)
    schedule, name = Schedule.of(NAME, {"library": library}), str(dtype).removeprefix("torch.")
    group = len(case.heads) // case.kv_heads
    path = backend.build(schedule, name, case.head_dim, folder, group=group, causal=case.causal)
    kernel, operators, outputs = backend.load(path), Operators(), []

    def noted(*given: Any) -> torch.Tensor:
        with operators:
            outputs.append(kernel(*given))
        return outputs[-1]

    seed = torch.seed() % 2**32
    assert error_of(noted, case, seed, dtype, "cuda") < TOLERANCES[dtype], f"seed {seed}"
    assert outputs[0].transpose(1, 2).is_contiguous()
    return operators.names & set(LIBRARIES.values())


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("case", EXPRESSED, ids=lambda case: case.name)
@pytest.mark.parametrize("library", LIBRARIES, ids=["flash", "cudnn"])
def test_the_library_computes_what_it_can_express(
    library: int, case: Case, dtype: torch.dtype, tmp_path: Path
) -> None:
    assert checked(library, case, dtype, tmp_path) == {LIBRARIES[library]}


@pytest.mark.parametrize("case", LEFT_TO_US, ids=lambda case: case.name)
@pytest.mark.parametrize("library", LIBRARIES, ids=["flash", "cudnn"])
def test_our_kernel_computes_the_rest(library: int, case: Case, tmp_path: Path) -> None:
    assert checked(library, case, torch.bfloat16, tmp_path) == set()
