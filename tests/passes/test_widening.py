"""Windows that widen in a graph: what each length sees, what a plan exchanges, and what is checked when read."""

from __future__ import annotations

import pytest
import torch

from hcompile.errors import UsageError
from hcompile.passes.far_field import insert_far_field
from hcompile.passes.lower import lower_dense
from hcompile.passes.select import plan_tensors, select
from hcompile.passes.sites import WIDENING, arguments
from hcompile.passes.widening import insert_widening
from hcompile.patterns import Dense, Linear, Local
from hcompile.plan import Plan
from hcompile.program import Program
from hcompile.program_json import program_from_json, program_to_json
from tests.passes.test_far_field import learned
from tests.policy.tiny_programs import Q_HEADS, tiny_text

HEADS = (Local(4, 1, widening=32), Dense(), Local(8, 2), Local(2, 0, widening=8))


def tokens(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 256, (2, length), generator=torch.Generator().manual_seed(length))
    valid = torch.ones_like(ids)
    valid[1, :9] = 0
    return ids, valid


def mixed(program: Program) -> Plan:
    """Return a plan whose second site has no window that widens."""
    first, second = program.sites
    return Plan.of({first.name: HEADS, second.name: (Local(8, 2),) * Q_HEADS})


@pytest.fixture(scope="module")
def program() -> Program:
    return tiny_text()


@pytest.fixture(scope="module")
def hybrid(program: Program) -> Program:
    return insert_widening(select(program, mixed(program)))


def test_only_sites_whose_plan_has_one_get_it(hybrid: Program) -> None:
    assert [len(arguments(node)) > WIDENING for _, node in hybrid.attention_nodes()] == [True, False]


@pytest.mark.parametrize("length", [40, 300])
def test_each_length_sees_what_the_plan_is_there(program: Program, hybrid: Program, length: int) -> None:
    rigid = select(program, mixed(program).at(length))
    torch.testing.assert_close(hybrid.run(*tokens(length)), rigid.run(*tokens(length)))


def test_lengths_differ(program: Program, hybrid: Program) -> None:
    rigid = select(program, mixed(program).at(300))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(hybrid.run(*tokens(40)), rigid.run(*tokens(40)))


def test_an_exchanged_plan_gives_what_a_selected_one_does(program: Program, hybrid: Program) -> None:
    open_to_all = insert_widening(program)
    torch.testing.assert_close(open_to_all.run(*tokens(40)), program.run(*tokens(40)))
    tensors = plan_tensors(open_to_all, mixed(program))
    assert len(tensors) == 4
    exchanged = open_to_all.with_graph(open_to_all.edit(), {**open_to_all.tensors, **tensors})
    torch.testing.assert_close(exchanged.run(*tokens(40)), hybrid.run(*tokens(40)))


@pytest.mark.parametrize("widen_first", [True, False])
def test_it_stands_beside_far_fields(program: Program, widen_first: bool) -> None:
    first, second = program.sites
    heads = (Linear(4, 1, widening=32), Local(4, 1, widening=32), Dense(), Linear(8, 2))
    plan = Plan.of({first.name: heads, second.name: heads})
    maps = learned(program)
    bare = select(program, plan)
    both = (
        insert_far_field(insert_widening(bare), maps)
        if widen_first
        else insert_widening(insert_far_field(bare, maps))
    )
    rigid = insert_far_field(select(program, plan.at(40)), maps)
    torch.testing.assert_close(both.run(*tokens(40)), rigid.run(*tokens(40)))


def test_the_dense_model_has_none(program: Program, hybrid: Program) -> None:
    torch.testing.assert_close(lower_dense(hybrid, padded=True).run(*tokens(40)), program.run(*tokens(40)))


def test_a_program_with_one_survives_json(hybrid: Program) -> None:
    again = program_from_json(program_to_json(hybrid), hybrid.tensors)
    torch.testing.assert_close(again.run(*tokens(40)), hybrid.run(*tokens(40)))


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(Q_HEADS, dtype=torch.int32),
        torch.tensor([32, 0, 0, 8]),
        torch.tensor([[32, 0, 0, 8]], dtype=torch.int32),
    ],
    ids=["not the plan's", "int64", "a table"],
)
def test_data_that_does_not_fit_is_refused(hybrid: Program, value: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="its windows gain something else than the plan's"):
        program_from_json(program_to_json(hybrid), {**hybrid.tensors, "hcompile_widening_0": value})


def test_a_plan_that_widens_without_a_place_for_it_is_refused(program: Program) -> None:
    bare = select(program, mixed(program))
    with pytest.raises(UsageError, match="lacks what the plan's windows gain"):
        program_from_json(program_to_json(bare), bare.tensors)
