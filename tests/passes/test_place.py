"""Placing a program: checked on torch's meta device, which any machine has and whose tensors mix with no others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hcompile.passes.lower import lower_dense
from hcompile.passes.place import place, place_both
from hcompile.program import Program
from hcompile.runtime.inputs import made_up_inputs
from hcompile.runtime.module import takes_padding

META = torch.device("meta")
CPU = torch.device("cpu")


class Positions(nn.Module):
    """Makes tensors of its own: from sizes, from a scalar, and from another dtype; two names share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 8)
        self.head = nn.Linear(8, 32, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        position = torch.arange(ids.shape[1], device=ids.device)
        scale = torch.full((1,), 0.5) * position.to(torch.float32)[:, None]
        logits: Tensor = self.head(self.embed(ids) + scale)
        return torch.where(logits > 0, logits, torch.scalar_tensor(0.0))


@pytest.fixture(scope="module")
def positions() -> Program:
    ids = torch.arange(10).reshape(2, 5)
    dims = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    return Program.from_exported(torch.export.export(Positions(), (ids,), dynamic_shapes=(dims,)))


def test_all_that_a_graph_makes_is_on_the_device(positions: Program) -> None:
    placed = place(positions, META)
    assert placed.device == META and positions.device == CPU
    assert {tensor.device for tensor in placed.tensors.values()} == {META}
    (out,) = placed.run(torch.zeros(3, 7, dtype=torch.int64, device=META))
    assert (out.device, out.shape) == (META, (3, 7, 32))


def test_raised_and_dense_graphs_run_where_they_were_placed(tiny_hybrid: Program) -> None:
    assert takes_padding(tiny_hybrid)
    placed = place(tiny_hybrid, META)
    for program in (placed, lower_dense(placed), lower_dense(placed, padded=True)):
        inputs = made_up_inputs(program, (0, 1), 2, 19)
        assert {value.device for value in inputs} == {META}
        assert {out.device for out in program.run(*inputs)} == {META}


def test_tensors_that_share_memory_still_do_across_two_programs(positions: Program) -> None:
    moved, original = place_both(positions, positions.with_graph(positions.edit()), META)
    assert original is not None
    assert len({id(tensor) for tensor in (*moved.tensors.values(), *original.tensors.values())}) == len(
        {tensor.data_ptr() for tensor in positions.tensors.values()}
    )


def test_a_program_that_is_there_stays_as_it_is(positions: Program) -> None:
    assert place(positions, CPU) is positions
    assert place_both(positions, None, CPU) == (positions, None)
