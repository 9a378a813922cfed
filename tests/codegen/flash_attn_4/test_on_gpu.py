"""FlashAttention-4 on a GPU, where it is installed: what its calls compute, and what falls to our kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hcompile.codegen import library
from hcompile.codegen.flash_attn_4 import backend as fa4
from hcompile.patterns import Dense, Local, Pattern
from hcompile.workload import Workload
from tests.codegen.triton_gpu.cases import Case, error_of
from tests.codegen.triton_gpu.test_on_gpu import TOLERANCES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.skipif(not fa4.installed(), reason="flash-attn-4 is not installed"),
    pytest.mark.filterwarnings("ignore"),
]

PATTERNS: tuple[Pattern, ...] = (Dense(), Local(1), Local(100), Local(256))
SHAPES = (
    Case("ragged", 333, 333, head_dim=128),
    Case("longer", 1000, 1000, head_dim=128),
    Case("bidirectional", 333, 333, head_dim=128, causal=False),
    Case("after-a-cache", 333, 1000, head_dim=128),
    Case("after-a-cache-bidirectional", 333, 1000, head_dim=128, causal=False),
    Case("one-query", 1, 1000, head_dim=128),
    Case("head-of-64", 1000, 1000, head_dim=64),
    Case("head-of-96", 333, 333, head_dim=96),
    Case("head-of-256", 333, 333, head_dim=256),
    Case("heads-first", 333, 333, head_dim=128, tokens_first=False),
)
GROUPS = {"alone": (4, 4), "groups-of-2": (4, 2), "groups-of-3": (6, 2), "one-group": (8, 1)}
"""Query and KV heads; a tile's rows are no multiple of three."""


@pytest.fixture(scope="module")
def kernels() -> dict[int, Any]:
    """Return the kernels by `pack_gqa`."""
    of = Workload.of(
        [Dense()] * 4, kv_heads=2, head_dim=128, q_len=1024, kv_len=1024, causal=True, dtype="bfloat16"
    )
    if not fa4.BACKEND.serves(of):
        pytest.skip("no Hopper or Blackwell GPU")
    schedules = [each for each in fa4.BACKEND.space(of).enumerate() if each["splits"] == 1]
    return {each["pack_gqa"]: library.with_ours_behind(fa4.BACKEND.attend(each)) for each in schedules}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a call fail that falls to our kernel."""

    def ours(*_: object) -> Callable[..., torch.Tensor]:
        raise AssertionError("the call fell to our kernel")

    monkeypatch.setattr(library, "_ours", ours)


def with_heads(case: Case, pattern: Pattern, q_heads: int, kv_heads: int) -> Case:
    return Case(
        case.name, case.q_len, case.kv_len, (pattern,) * q_heads, kv_heads, case.head_dim, case.causal,
        case.mask, case.tokens_first,
    )  # fmt: skip


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.label())
@pytest.mark.parametrize("case", SHAPES, ids=lambda case: case.name)
@pytest.mark.parametrize("pack", [0, 1])
def test_it_computes_what_the_reference_says(
    kernels: dict[int, Any], pack: int, case: Case, pattern: Pattern, dtype: torch.dtype
) -> None:
    seed = torch.seed() % 2**32
    error = error_of(kernels[pack], with_heads(case, pattern, 4, 2), seed, dtype, "cuda")
    assert error < TOLERANCES[dtype], f"seed {seed}"


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("heads", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.label())
@pytest.mark.parametrize("pack", [0, 1])
def test_groups_of_any_size_read_their_own_keys(
    kernels: dict[int, Any], pack: int, pattern: Pattern, heads: tuple[int, int]
) -> None:
    seed, dtype = torch.seed() % 2**32, torch.bfloat16
    error = error_of(kernels[pack], with_heads(SHAPES[0], pattern, *heads), seed, dtype, "cuda")
    assert error < TOLERANCES[dtype], f"seed {seed}"


@pytest.mark.parametrize(
    "case",
    [
        Case("mixed", 333, 333, head_dim=128),
        Case("sinks", 333, 333, (Local(100, 8),) * 4, head_dim=128),
        Case("padding", 333, 333, (Dense(),) * 4, head_dim=128, mask="padding"),
    ],
    ids=lambda case: case.name,
)
def test_what_it_cannot_express_is_right_too(kernels: dict[int, Any], case: Case) -> None:
    seed, dtype = torch.seed() % 2**32, torch.bfloat16
    assert error_of(kernels[1], case, seed, dtype, "cuda") < TOLERANCES[dtype], f"seed {seed}"


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("window", [2**30, 100])
def test_a_graph_replays_to_the_same_output_on_another_stream(kernels: dict[int, Any], window: int) -> None:
    q, k, v = (
        torch.randn(1, 1000, heads, 128, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
        for heads in (4, 2, 2)
    )
    params = torch.tensor([[window, 0]] * 4, dtype=torch.int32, device="cuda")
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        wanted = kernels[1](q, k, v, None, params, 0, 0.09, True).clone()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            out = kernels[1](q, k, v, None, params, 0, 0.09, True)
    for _ in range(3):
        out.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        torch.testing.assert_close(out, wanted, rtol=0, atol=0)


@pytest.mark.usefixtures("alone")
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_it_runs_where_its_tensors_are(kernels: dict[int, Any]) -> None:
    q, k, v = (torch.randn(1, heads, 333, 128, device="cuda", dtype=torch.bfloat16) for heads in (4, 2, 2))
    params = torch.tensor([[2**30, 0]] * 4, dtype=torch.int32, device="cuda")
    wanted = kernels[1](q, k, v, None, params, 0, 0.09, True)
    others = [each.to("cuda:1") for each in (q, k, v, params)]
    out = kernels[1](*others[:3], None, others[3], 0, 0.09, True)
    assert out.device.index == 1
    torch.testing.assert_close(out.to("cuda:0"), wanted, rtol=0, atol=0)
