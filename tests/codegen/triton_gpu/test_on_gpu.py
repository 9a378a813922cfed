"""The GPU kernels on a GPU: right in their own dtypes, in graphs, and through the operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hcompile.errors import KernelError
from hcompile.lists import lists_of
from hcompile.routing import first_valid_key
from tests.codegen.triton_gpu.cases import (
    DECODE,
    DECODE_SHAPES,
    HOPPER,
    PREFILL,
    PREFILL_SHAPES,
    Case,
    error_of,
    relative_error,
    schedule,
)
from tests.codegen.triton_gpu.paged import Paged
from tests.codegen.triton_gpu.routed import CASES as ROUTED
from tests.codegen.triton_gpu.routed import Case as RoutedCase
from tests.codegen.triton_gpu.routed import faults

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.filterwarnings("ignore"),
]
# Weights and output are rounded: each by 2 ** -8 of the mean of |V| at most in bfloat16, an eighth of it in float16.
TOLERANCES = {torch.bfloat16: 2**-7, torch.float16: 2**-10}
ALL = 2**31 - 1


def kernels() -> dict[str, Any]:
    from hcompile.codegen.triton_gpu import decode, hopper_prefill

    made = default_kernels(128)
    made["decode-unsplit"] = decode.bind(schedule("triton_decode", capability=here(), splits=1, keys=32))
    if "hopper" in made:
        made["decode-early"] = decode.bind(schedule("triton_decode", early=1))
        made["hopper-free"] = hopper_prefill.bind(schedule("hopper_prefill", turns=0, share=1, stages=3))
        narrow = schedule("hopper_prefill", keys=64, stages=5, turns=0, hold_q=1)
        made["hopper-64"] = hopper_prefill.bind(narrow)
    return made


def default_kernels(head_dim: int) -> dict[str, Any]:
    """Return one kernel of each template, with the schedule that it has for heads of this size."""
    from hcompile.codegen.triton_gpu import decode, hopper_prefill, prefill

    made = {
        "portable": prefill.bind(schedule("triton_prefill", head_dim, here())),
        "decode": decode.bind(schedule("triton_decode", head_dim, here())),
    }
    if here() == HOPPER:
        made["hopper"] = hopper_prefill.bind(schedule("hopper_prefill", head_dim))
    return made


def here() -> int:
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return kernels()


def kernel_of(made: dict[str, Any], name: str) -> Any:
    if name not in made:
        pytest.skip("no Hopper GPU")
    return made[name]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("case", PREFILL, ids=lambda case: case.name)
@pytest.mark.parametrize("name", ["portable", "hopper", "hopper-free", "hopper-64"])
def test_prefill_is_what_the_reference_says(
    made: dict[str, Any], name: str, case: Case, dtype: torch.dtype
) -> None:
    scale = 4 if case.head_dim == 24 else 8
    seed = torch.seed() % 2**32
    assert error_of(kernel_of(made, name), case, seed, dtype, "cuda", scale) < TOLERANCES[dtype], (
        f"seed {seed}"
    )


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("case", DECODE, ids=lambda case: case.name)
@pytest.mark.parametrize("name", ["decode", "decode-unsplit", "decode-early"])
def test_decode_is_what_the_reference_says(
    made: dict[str, Any], name: str, case: Case, dtype: torch.dtype
) -> None:
    seed = torch.seed() % 2**32
    assert error_of(kernel_of(made, name), case, seed, dtype, "cuda", 4) < TOLERANCES[dtype], f"seed {seed}"


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    ("name", "case"),
    [
        *((name, case) for name in ("portable", "hopper") for case in PREFILL_SHAPES),
        *(("decode", case) for case in DECODE_SHAPES),
    ],
    ids=lambda each: each if isinstance(each, str) else each.name,
)
def test_heads_of_every_size_in_groups_of_every_size(name: str, case: Case, dtype: torch.dtype) -> None:
    seed, scale = torch.seed() % 2**32, 8
    kernel = kernel_of(default_kernels(scale * case.head_dim), name)
    assert error_of(kernel, case, seed, dtype, "cuda", scale) < TOLERANCES[dtype], f"seed {seed}"


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padding"])
def test_keys_may_stand_in_pages(made: dict[str, Any], masked: bool, dtype: torch.dtype) -> None:
    seed = torch.seed() % 2**32
    paged = Paged.random(seed, 1003, dtype, head_dim=128, masked=masked)
    out = paged.run(made["decode"], paged.arguments("cuda"))
    assert paged.error(out) < TOLERANCES[dtype], f"seed {seed}"


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("scale", [1, 5, 8])
@pytest.mark.parametrize("case", ROUTED, ids=lambda case: case.name)
def test_lists_hold_the_share_in_the_fewest_blocks(case: RoutedCase, scale: int, dtype: torch.dtype) -> None:
    seed = torch.seed() % 2**32
    assert faults(case, seed, dtype, "cuda", scale) == [], f"seed {seed}"


def call(
    length: int, queries: int, batch: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int]:
    q, k, v = (
        torch.randn(batch, size, heads, 128, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
        for size, heads in ((queries, 4), (length, 2), (length, 2))
    )
    params = torch.tensor([[ALL, 0], [100, 8], [300, 0], [7, 70]], dtype=torch.int32, device="cuda")
    return q, k, v, params, length - queries


def captured(run: Callable[[], torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
    """Return a graph of one call, and where its output stands."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        run()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            out = run()
    return graph, out


@pytest.mark.parametrize(
    ("name", "queries"), [("decode", 1), ("decode-early", 1), ("hopper", 1000), ("portable", 1000)]
)
def test_a_graph_replays_to_the_same_output_again_and_again(
    made: dict[str, Any], name: str, queries: int
) -> None:
    kernel = kernel_of(made, name)
    q, k, v, params, offset = call(1000, queries)
    wanted = kernel(q, k, v, None, params, offset, 0.09, True)
    graph, out = captured(lambda: kernel(q, k, v, None, params, offset, 0.09, True))
    for _ in range(3):
        out.fill_(float("nan"))
        graph.replay()
        torch.testing.assert_close(out, wanted, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "queries"), [("decode", 1), ("decode-early", 1), ("hopper", 1000), ("portable", 1000)]
)
def test_a_graph_follows_inputs_and_padding_that_change(
    made: dict[str, Any], name: str, queries: int
) -> None:
    kernel = kernel_of(made, name)
    q, k, v, params, offset = call(1000, queries, batch=2)
    mask = torch.ones(2, 1000, dtype=torch.bool, device="cuda")
    mask[0, :17] = False
    graph, out = captured(lambda: kernel(q, k, v, mask, params, offset, 0.09, True))
    for left, end in ((200, 1000), (0, 930)):
        for each in (q, k, v):
            each.normal_()
        mask.fill_(True)
        mask[1, :left], mask[0, end:] = False, False
        graph.replay()
        rest = mask.cpu(), params.cpu(), offset, 0.09, True
        error = relative_error(out, q.cpu(), k.cpu(), v.cpu(), *rest)
        assert error < TOLERANCES[torch.bfloat16], (left, end)


def test_a_graph_follows_pages_that_move(made: dict[str, Any]) -> None:
    seed = torch.seed() % 2**32
    first, *others = (Paged.random(seed + at, 1003, torch.bfloat16, head_dim=128) for at in range(3))
    arguments = first.arguments("cuda")
    graph, out = captured(lambda: first.run(made["decode"], arguments))
    for other in others:
        for mine, theirs in zip(arguments, other.arguments("cuda"), strict=True):
            if mine is not None and theirs is not None:
                mine.copy_(theirs)
        graph.replay()
        assert other.error(out) < TOLERANCES[torch.bfloat16], f"seed {seed}"


def compiled() -> int:
    """How many variants of the kernels Triton has compiled or read from its cache."""
    from hcompile.codegen.triton_gpu.kernels.decode import decode
    from hcompile.codegen.triton_gpu.kernels.hopper_prefill import hopper_prefill
    from hcompile.codegen.triton_gpu.kernels.prefill import prefill

    kernels: tuple[Any, ...] = decode, hopper_prefill, prefill
    return sum(len(each[0]) for kernel in kernels for each in kernel.device_caches.values())


@pytest.mark.parametrize(
    ("name", "queries"),
    [("decode", 1), ("decode-early", 1), ("hopper", 0), ("hopper-64", 0), ("portable", 0)],
)
def test_other_lengths_compile_nothing_and_are_launched_as_triton_would(
    made: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str, queries: int
) -> None:
    from hcompile.codegen.triton_gpu import launch

    kernel = kernel_of(made, name)
    q, k, v, params, offset = call(1000, queries or 1000)
    kernel(q, k, v, None, params, offset, 0.09, True)
    before, ask = compiled(), launch.Launcher._by_triton
    by_triton: list[object] = []

    def noted(self: launch.Launcher, *given: Any) -> None:
        by_triton.append(given)
        ask(self, *given)

    monkeypatch.setattr(launch.Launcher, "_by_triton", noted)
    for length in (1, 16, 77, 1000, 1024, 2049):
        q, k, v, _, offset = call(length, queries or length)
        outs = [kernel(q, k, v, None, params, offset, 0.09, True) for _ in range(3)]
        assert not by_triton
        with monkeypatch.context() as patch:
            patch.setattr(launch, "_watched", lambda: True)
            wanted = kernel(q, k, v, None, params, offset, 0.09, True)
        assert by_triton.pop()
        for out in outs:
            torch.testing.assert_close(out, wanted, rtol=0, atol=0)
    assert compiled() == before


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
@pytest.mark.parametrize(("name", "queries"), [("decode", 1), ("hopper", 500), ("portable", 500)])
def test_a_kernel_runs_where_its_tensors_are(made: dict[str, Any], name: str, queries: int) -> None:
    kernel = kernel_of(made, name)
    q, k, v, params, offset = call(500, queries)
    wanted = kernel(q, k, v, None, params, offset, 0.09, True)
    others = [each.to("cuda:1") for each in (q, k, v, params)]
    for _ in range(2):
        out = kernel(*others[:3], None, others[3], offset, 0.09, True)
        assert out.device.index == 1
        torch.testing.assert_close(out.to("cuda:0"), wanted, rtol=0, atol=0)


def test_the_operator_compiles_without_breaks_and_not_anew_for_each_length(made: dict[str, Any]) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    from hcompile.operator import attention, bind

    kernel = kernel_of(made, "hopper" if "hopper" in made else "portable")
    bind("test-gpu", kernel)
    counter = CompileCounterWithBackend("inductor")

    @torch.compile(backend=counter, fullgraph=True, dynamic=True)
    def attend(q: Any, k: Any, v: Any, params: Any) -> Any:
        return attention(q, k, v, None, params, None, None, 0, 0.09, True, "test-gpu") * 2

    for length in (300, 700, 1100):
        q, k, v, params, _ = call(length, length)
        torch.testing.assert_close(attend(q, k, v, params), kernel(q, k, v, None, params, 0, 0.09, True) * 2)
    assert counter.frame_count == 1


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_heads_that_read_lists_see_those_blocks_alone(made: dict[str, Any], masked: bool) -> None:
    kernel = kernel_of(made, "hopper-64")
    rows, keys, length, heads, batch = 128, 64, 1000, 4, 3
    tiles = -(-length // rows)
    q, k, v, _, _ = call(length, length, batch)
    params = torch.tensor([[0, 0], [100, 8], [0, 0], [0, 0]], dtype=torch.int32, device="cuda")
    # Some blocks up to the diagonal, each for the upper half of the rows, the lower, or both.
    block = torch.arange(2 * tiles)
    chosen = torch.rand(batch, 3, 2 * tiles, 2 * tiles) < 0.4
    chosen &= block // 2 <= block[:, None] // 2
    chosen[:, 0, 4] = False  # Some queries see nothing.
    seen = torch.zeros(batch, heads, 2 * tiles * keys, 2 * tiles * keys, dtype=torch.bool)
    seen[:, [0, 2, 3]] = chosen.repeat_interleave(rows // 2, 2).repeat_interleave(keys, 3)
    mask = torch.ones(batch, length, dtype=torch.bool)
    if masked:  # On the left, with a hole; on the right; all of a row.
        mask[0, :150] = mask[0, 400:430] = mask[1, 930:] = mask[2] = False
    position = torch.arange(length)
    distance = position[:, None] - position[None, :]
    sinks = position[None, :] < first_valid_key(mask)[:, None] + 8
    seen = seen[:, :, :length, :length] & (distance >= 0)
    seen[:, 1] = (distance >= 0) & ((distance < 100) | sinks[:, None, :])
    seen &= mask[:, None, None, :]
    count, index = lists_of(chosen)
    index[torch.arange(index.shape[-1]) >= count[..., None]] = 2**31 - 1  # Says nothing.
    lists = count.cuda(), index.cuda()
    given = mask.cuda() if masked else None
    out = kernel(q, k, v, given, params, 0, 0.09, True, *lists).cpu().double()
    wide_k, wide_v = (each.cpu().double().repeat_interleave(2, 1) for each in (k, v))
    scores = (q.cpu().double() @ wide_k.transpose(-1, -2) * 0.09).masked_fill(~seen, float("-inf"))
    weights = scores.softmax(-1).nan_to_num(0.0)
    bound = weights @ wide_v.abs()
    assert ((out - weights @ wide_v).abs() <= TOLERANCES[torch.bfloat16] * bound).all()


MIXED_ROUTED = ((0, 500), (100, 8), (0, 1000), (0, 150))


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize(("length", "queries"), [(1000, 1000), (1153, 400), (700, 1)])
@pytest.mark.parametrize("name", ["hopper", "hopper-64"])
def test_routed_heads_read_what_the_device_chose_beside_windows(
    made: dict[str, Any], name: str, length: int, queries: int, masked: bool
) -> None:
    from hcompile.codegen.triton_gpu.heads import HeadOrders
    from hcompile.codegen.triton_gpu.inputs import masked as valid_keys
    from hcompile.codegen.triton_gpu.route import Router

    kernel = kernel_of(made, name)
    q, k, v, _, offset = call(length, queries, batch=3)
    params = torch.tensor(MIXED_ROUTED, dtype=torch.int32, device="cuda")
    mask = None
    if masked:  # On the left, with a hole; on the right; all of a row.
        mask = torch.ones(3, length, dtype=torch.bool, device="cuda")
        mask[0, :150] = mask[0, 400:430] = mask[1, length - 70 :] = mask[2] = False
    out = kernel(q, k, v, mask, params, offset, 0.09, True)
    order, there = HeadOrders().of(params), valid_keys(params, mask)
    lists = Router()("facts", q, k, *there, order, offset, 0.09, True)
    torch.testing.assert_close(kernel(q, k, v, mask, params, offset, 0.09, True, *lists), out, rtol=0, atol=0)
    given = None if mask is None else mask.cpu(), params.cpu(), offset, 0.09, True
    error = relative_error(out, q.cpu(), k.cpu(), v.cpu(), *given, *(each.cpu() for each in lists))
    assert error < TOLERANCES[torch.bfloat16]


@pytest.mark.parametrize("name", ["hopper", "hopper-64"])
def test_a_graph_chooses_anew_at_each_replay(made: dict[str, Any], name: str) -> None:
    kernel = kernel_of(made, name)
    q, k, v, _, offset = call(1000, 1000, batch=2)
    params = torch.tensor(MIXED_ROUTED, dtype=torch.int32, device="cuda")
    mask = torch.ones(2, 1000, dtype=torch.bool, device="cuda")
    graph, out = captured(lambda: kernel(q, k, v, mask, params, offset, 0.09, True))
    for left, end in ((200, 1000), (0, 930)):
        for each in (q, k, v):
            each.normal_()
        mask.fill_(True)
        mask[1, :left], mask[0, end:] = False, False
        out.fill_(float("nan"))
        graph.replay()
        wanted = kernel(q, k, v, mask, params, offset, 0.09, True)
        torch.testing.assert_close(out, wanted, rtol=0, atol=0)


def test_routed_heads_that_want_everything_are_dense_at_every_length(made: dict[str, Any]) -> None:
    kernel = kernel_of(made, "hopper-64")
    params = torch.tensor([[0, 1000]] * 4, dtype=torch.int32, device="cuda")
    dense = torch.tensor([[ALL, 0]] * 4, dtype=torch.int32, device="cuda")
    for length in (1, 16, 77, 1000, 1024, 2049, 5000):
        q, k, v, _, offset = call(length, length)
        out, wanted = (kernel(q, k, v, None, each, offset, 0.09, True) for each in (params, dense))
        torch.testing.assert_close(out, wanted, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("name", "queries"), [("decode", 1), ("portable", 100)])
def test_routed_heads_are_refused_where_no_kernel_serves_them(
    made: dict[str, Any], name: str, queries: int
) -> None:
    q, k, v, _, offset = call(300, queries)
    params = torch.tensor(MIXED_ROUTED, dtype=torch.int32, device="cuda")
    with pytest.raises(KernelError, match="3 heads are routed, and this kernel serves none"):
        made[name](q, k, v, None, params, offset, 0.09, True)


@pytest.mark.parametrize("wrong", ["heads", "tiles", "dtype"])
def test_lists_that_do_not_fit_are_refused(made: dict[str, Any], wrong: str) -> None:
    kernel = kernel_of(made, "hopper-64")
    q, k, v, _, _ = call(300, 300)
    params = torch.tensor(MIXED_ROUTED, dtype=torch.int32, device="cuda")
    shape = (1, 4 if wrong == "heads" else 3, 2 if wrong == "tiles" else 3)
    dtype = torch.int64 if wrong == "dtype" else torch.int32
    count, index = (torch.zeros(size, dtype=dtype, device="cuda") for size in (shape, (*shape, 5)))
    with pytest.raises(KernelError, match="block_count"):
        kernel(q, k, v, None, params, 0, 0.09, True, count, index)
