"""The frozen table of kernels: what it holds, and what the keys of its bindings depend on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hcompile import operator
from hcompile.codegen import get_backend
from hcompile.errors import KernelError
from hcompile.passes.sites import BINDING
from hcompile.program import Program
from hcompile.runtime.dispatch import ScheduleTable, bind_program, compute_dtype, safe_tables
from hcompile.schedules.schedule import Schedule
from tests.small_programs import attention_program, odd_model, odd_program

A, B, C = (Schedule("t", (("tile", size),)) for size in (1, 2, 3))


def test_a_schedule_serves_lengths_up_to_its_own_and_the_last_one_longer_ones() -> None:
    table = ScheduleTable(((128, A), (1024, B), (8192, C)))
    lengths = (1, 128, 129, 1024, 1025, 8192, 8193, 2**20)
    assert [table.schedule(length) for length in lengths] == [A, A, B, B, C, C, C, C]
    assert ScheduleTable.single(B).schedule(5) == B


def test_a_table_survives_json() -> None:
    table = ScheduleTable(((128, A), (1024, B)))
    assert ScheduleTable.from_json(json.loads(json.dumps(table.to_json()))) == table


@pytest.mark.parametrize("lengths", [(), (0,), (5, 5), (8, 4)])
def test_lengths_rise(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a schedule table wants rising lengths from 1"):
        ScheduleTable(tuple((length, A) for length in lengths))


@pytest.mark.parametrize(
    "value", [None, 3, [{}], [{"length": "1", "schedule": A.to_json()}], [{"length": 1}], ["x"]]
)
def test_json_that_is_no_table_is_refused(value: Any) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        ScheduleTable.from_json(value)


def bindings(program: Program) -> list[Any]:
    return [node.args[BINDING] for _, node in program.attention_nodes()]


@pytest.mark.usefixtures("warm_cache")
def test_equal_content_has_one_binding_key_and_other_content_another(tiny_hybrid: Program) -> None:
    tables = safe_tables(tiny_hybrid, "tvm_cpu")
    assert set(tables) == {site.name for site in tiny_hybrid.sites}
    first, again = (bindings(bind_program(tiny_hybrid, tables, "tvm_cpu")) for _ in range(2))
    assert first == again and len(set(first)) == 1 and first[0]
    schedule = next(iter(tables.values())).entries[0][1]
    longer = {name: ScheduleTable(((64, schedule), (128, schedule))) for name in tables}
    assert bindings(bind_program(tiny_hybrid, longer, "tvm_cpu")) != first
    assert bindings(tiny_hybrid) == ["", ""]


@pytest.mark.usefixtures("warm_cache")
def test_sites_without_a_table_keep_the_reference(tiny_hybrid: Program) -> None:
    tables = safe_tables(tiny_hybrid, "tvm_cpu")
    last = tiny_hybrid.sites[-1].name
    found = bindings(bind_program(tiny_hybrid, {last: tables[last]}, "tvm_cpu"))
    assert found[0] == "" and found[1] != ""


@pytest.fixture
def kernels_that_tell_their_schedule(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Build kernels that fill their output with the tile of their schedule."""
    backend = type(get_backend("tvm_cpu"))

    def build(self: Any, schedule: Schedule, dtype: str, head_dim: int, **calls: Any) -> int:
        return schedule["tile"]

    def load(self: Any, tile: int) -> Any:
        return lambda q, *rest: torch.full_like(q, float(tile))

    monkeypatch.setattr(backend, "build", build)
    monkeypatch.setattr(backend, "load", load)
    bound = dict(operator._kernels)
    yield
    operator._kernels.clear()
    operator._kernels.update(bound)


@pytest.mark.usefixtures("kernels_that_tell_their_schedule")
def test_a_call_takes_the_kernel_of_its_length(tiny_hybrid: Program) -> None:
    table = ScheduleTable(((4, A), (8, B), (16, C)))
    tables = {site.name: table for site in tiny_hybrid.sites}
    binding = bindings(bind_program(tiny_hybrid, tables, "tvm_cpu"))[0]
    params = torch.ones(4, 2, dtype=torch.int32)
    for length, tile in ((1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (64, 3)):
        q, k = torch.zeros(1, 4, length, 8), torch.zeros(1, 2, length, 8)
        out = operator.attention(q, k, k, None, params, None, None, 0, 1.0, True, binding)
        assert float(out.max()) == tile


def test_the_dtype_is_that_of_most_weights() -> None:
    program = odd_program(odd_model())
    assert compute_dtype(program) == "float32"
    half = {name: t.bfloat16() if t.is_floating_point() else t for name, t in program.tensors.items()}
    assert compute_dtype(program.replace(tensors=half)) == "bfloat16"


def test_a_program_without_weights_has_no_dtype() -> None:
    with pytest.raises(KernelError, match="no floating-point matrices"):
        compute_dtype(attention_program())


def test_no_table_where_there_is_no_kernel(tiny_hybrid: Program) -> None:
    half = {name: t.half() if t.is_floating_point() else t for name, t in tiny_hybrid.tensors.items()}
    assert safe_tables(tiny_hybrid.replace(tensors=half), "tvm_cpu") == {}
