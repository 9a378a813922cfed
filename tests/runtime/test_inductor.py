"""One compilation serves every shape, every thread and every set of weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch.export import Dim

from hcompile.errors import UsageError
from hcompile.program import Program
from hcompile.runtime import inductor
from hcompile.runtime.inductor import CompiledGraph, example_shape, example_sizes
from hcompile.runtime.module import Lowered
from tests.small_programs import attention_program, odd_inputs, odd_model, odd_program, program_of


def text_inputs(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random ids and a mask that pads the first row on the left."""
    ids = torch.randint(
        0, 64, (batch, length), generator=torch.Generator().manual_seed(batch * 1000 + length)
    )
    mask = torch.ones_like(ids)
    mask[0, : length // 3] = 0
    return ids, mask


def assert_close_where_valid(found: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor) -> None:
    torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()], rtol=1e-4, atol=1e-5)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """Record what is compiled during a test."""
    compiled: list[Program] = []
    real: Callable[..., Any] = inductor._compile

    def record(program: Program, tensors: Mapping[str, torch.Tensor]) -> Callable[..., Any]:
        compiled.append(program)
        done: Callable[..., Any] = real(program, tensors)
        return done

    monkeypatch.setattr(inductor, "_compile", record)
    return compiled


@pytest.mark.parametrize("graph", ["hybrid", "padded"])
def test_one_compilation_serves_every_batch_and_length(
    tiny_hybrid: Program,
    tiny_program: Program,
    tiny_lowered: Lowered,
    compilations: list[Program],
    graph: str,
) -> None:
    compiled: CompiledGraph = getattr(tiny_lowered, graph)
    reference = tiny_hybrid if graph == "hybrid" else tiny_program
    for batch in (1, 2, 5):
        for length in (1, 2, 17, 130):
            ids, mask = text_inputs(batch, length)
            (found,) = compiled(ids, mask)
            assert_close_where_valid(found, reference.run(ids, mask)[0], mask)
    assert len(compilations) <= 1


def test_the_dense_graph_equals_the_model(tiny_llama: Any, tiny_lowered: Lowered) -> None:
    ids, mask = text_inputs(2, 33)
    with torch.no_grad():
        wanted = tiny_llama(input_ids=ids, attention_mask=torch.ones_like(mask)).logits
    torch.testing.assert_close(
        tiny_lowered.dense(ids, torch.ones_like(mask))[0], wanted, rtol=1e-4, atol=1e-5
    )


def test_nested_trees_constants_and_lower_dtypes_compile() -> None:
    program = odd_program(odd_model())
    compiled = CompiledGraph(program)
    for batch, length in ((1, 1), (3, 7)):
        inputs = odd_inputs(batch, length)
        for found, wanted in zip(compiled(*inputs), program.run(*inputs), strict=True):
            torch.testing.assert_close(found, wanted)


def test_weights_are_exchanged_for_one_call_only(tiny_hybrid: Program, tiny_lowered: Lowered) -> None:
    ids, mask = text_inputs(2, 17)
    name = next(name for name in tiny_hybrid.tensors if name.endswith("norm_weight"))
    changed = {name: tiny_hybrid.tensors[name].detach() * 3}
    (before,) = tiny_lowered.hybrid(ids, mask)
    (found,) = tiny_lowered.hybrid.call_with(changed, (ids, mask))
    other = tiny_hybrid.with_graph(tiny_hybrid.edit(), {**tiny_hybrid.tensors, **changed})
    assert_close_where_valid(found, other.run(ids, mask)[0], mask)
    assert not torch.allclose(found, before)
    assert torch.equal(tiny_lowered.hybrid(ids, mask)[0], before)


def test_weights_are_shared_and_not_copied(tiny_hybrid: Program) -> None:
    program = attention_program()
    compiled = CompiledGraph(program)
    q = torch.randn(1, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    compiled(q)
    program.tensors["hcompile_params_0"][:] = torch.tensor([(1, 0), (2, 1)], dtype=torch.int32)
    torch.testing.assert_close(compiled(q)[0], program.run(q)[0])


def test_inputs_of_any_memory_layout_are_taken(tiny_lowered: Lowered) -> None:
    ids, mask = text_inputs(3, 17)
    (wanted,) = tiny_lowered.hybrid(ids, mask)
    spread = torch.zeros(3, 40, dtype=torch.int64)[:, 5::2][:, :17].copy_(ids)
    for strange in (ids.T.contiguous().T, spread):
        assert not strange.is_contiguous()
        assert torch.equal(tiny_lowered.hybrid(strange, mask)[0], wanted)
    assert torch.equal(tiny_lowered.hybrid(ids, mask[:1].clone().fill_(1).expand(3, 17))[0][1:], wanted[1:])


def test_a_callers_autocast_and_inference_mode_change_nothing() -> None:
    """Neither at the compiling call nor later."""
    program = odd_program(odd_model())
    compiled = CompiledGraph(program)
    inputs = odd_inputs(2, 5)
    wanted = program.run(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        first = compiled(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        second = compiled(*inputs)
    for results in (first, second, compiled(*inputs)):
        for found, expected in zip(results, wanted, strict=True):
            assert found.dtype == expected.dtype and not found.requires_grad
            torch.testing.assert_close(found, expected)


def test_threads_that_call_first_together_compile_once(compilations: list[Program]) -> None:
    program = attention_program()
    compiled = CompiledGraph(program)
    barrier = threading.Barrier(8)

    def first_call(length: int) -> tuple[torch.Tensor, torch.Tensor]:
        q = torch.randn(1, 2, length, 8, generator=torch.Generator().manual_seed(length))
        barrier.wait()
        return compiled(q)[0], program.run(q)[0]

    with ThreadPoolExecutor(8) as pool:
        for found, wanted in pool.map(first_call, range(1, 9)):
            torch.testing.assert_close(found, wanted)
    assert len(compilations) == 1


def test_different_graphs_may_be_compiled_from_different_threads() -> None:
    programs = [attention_program(), odd_program(odd_model())]
    q = torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    calls = [(program, inputs) for program, inputs in zip(programs, [(q,), odd_inputs(2, 5)], strict=True)]
    barrier = threading.Barrier(2)

    def compile_and_run(call: tuple[Program, tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
        barrier.wait()
        return CompiledGraph(call[0])(*call[1])

    with ThreadPoolExecutor(2) as pool:
        for (program, inputs), found in zip(calls, pool.map(compile_and_run, calls), strict=True):
            for one, other in zip(found, program.run(*inputs), strict=True):
                torch.testing.assert_close(one, other)


def test_concurrent_calls_of_mixed_lengths_are_right(tiny_hybrid: Program, tiny_lowered: Lowered) -> None:
    calls = [
        text_inputs(1 + number % 3, length)
        for number, length in enumerate((1, 17, 40, 5, 130, 64, 33, 2) * 4)
    ]
    tiny_lowered.hybrid(*calls[0])
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda call: tiny_lowered.hybrid(*call)[0], calls))
    for (ids, mask), found in zip(calls, results, strict=True):
        assert_close_where_valid(found, tiny_hybrid.run(ids, mask)[0], mask)


def test_traced_sizes_differ_by_symbol_and_are_not_special(tiny_program: Program) -> None:
    sizes = example_sizes(tiny_program)
    shapes = [example_shape(spec, sizes) for spec in tiny_program.inputs]
    assert shapes[0] == shapes[1] and len(set(shapes[0])) == 2 and min(shapes[0]) > 1


@pytest.mark.parametrize(
    "limits",
    [((1, 4), (100, 300)), ((1, None), (1, 64)), ((3, 4), (3, 4)), ((2, 2), (2, 2)), ((1, 1), (7, 7))],
)
def test_traced_sizes_are_within_the_limits_and_differ_where_these_allow_it(
    tiny_program: Program, limits: tuple[tuple[int, int | None], ...]
) -> None:
    sizes = example_sizes(tiny_program.replace(dims=dict(zip(tiny_program.dims, limits, strict=True))))
    for symbol, (least, most) in zip(tiny_program.dims, limits, strict=True):
        assert least <= sizes[symbol] <= (most or sizes[symbol])
    assert len(set(sizes.values())) == (1 if limits == ((2, 2), (2, 2)) else 2)


def test_a_graph_that_makes_two_sizes_one_is_refused() -> None:
    class Apart(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x.sum() + y.sum()

    dims = ({0: Dim("x", min=1, max=90)}, {0: Dim("y", min=1, max=90)})
    program = program_of(Apart(), (torch.ones(6), torch.ones(4)), dims)
    # No other size within these limits is left for the second.
    narrow = program.replace(dims=dict.fromkeys(program.dims, (1, 2)))
    _, (x, y) = inductor._symbolic_inputs(narrow, {})
    inductor.check_free_sizes(narrow, (x, y))
    assert (x + y).dim() == 1
    with pytest.raises(UsageError, match="only if axis 0 of x and axis 0 of y are equal: export it"):
        inductor.check_free_sizes(narrow, (x, y))
