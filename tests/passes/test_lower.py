"""Selecting puts a plan into a program; lowering binds kernels or goes back to torch's dense attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hcompile.errors import UsageError
from hcompile.far_field import FarFields
from hcompile.operator import bind
from hcompile.passes.lower import drop_key_mask, lower, lower_dense
from hcompile.passes.raise_attention import raise_attention
from hcompile.passes.select import select
from hcompile.passes.verify import verify_rewrite
from hcompile.patterns import Dense, Local
from hcompile.plan import Plan
from hcompile.program import Program
from hcompile.program_json import program_from_json, program_to_json
from tests.passes.attention_models import (
    HEADS,
    Projected,
    exported,
    hidden,
    largest_difference,
    masked,
    operators,
)


def _windowed(q: Tensor, k: Tensor, v: Tensor, marks: Tensor) -> Tensor:
    position = torch.arange(q.shape[2])
    near = (position <= position[:, None]) & (position > position[:, None] - 4)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=near & (marks != 0)[:, None, None, :])


def _causal(q: Tensor, k: Tensor, v: Tensor, marks: Tensor) -> Tensor:
    seen = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril() & (marks != 0)[:, None, None, :]
    k, v = (operand.repeat_interleave(2, dim=1) for operand in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


class _Two(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = Projected(_causal, kv_heads=2)
        self.second = Projected(_windowed)

    def forward(self, x: Tensor, marks: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x, marks), marks)
        return out


ONES = torch.ones(2, 11, dtype=torch.int64)
LEFT_PADDED = torch.tensor([[0] * 4 + [1] * 7, [1] * 11])


@pytest.fixture(scope="module")
def program() -> Program:
    return raise_attention(exported(_Two(), hidden(2, 11), ONES))


def test_a_selected_plan_changes_what_heads_see(program: Program) -> None:
    mixed = (Dense(), Local(3, 1), Local(5), Dense())
    plan = Plan.of({"first": mixed, "second": (Local(2),) * HEADS})
    selected = select(program, plan)
    assert selected.plan == plan
    assert selected.tensors["hcompile_params_0"].tolist() == [list(pattern.params()) for pattern in mixed]
    assert program.tensors["hcompile_params_0"].tolist() == [[2**30, 0]] * HEADS
    assert str(selected.graph.graph) == str(program.graph.graph)
    inputs = (hidden(2, 11), ONES)
    assert largest_difference(selected.run(*inputs), program.run(*inputs)) > 1e-3


def test_the_models_own_plan_changes_nothing(program: Program) -> None:
    inputs = (hidden(2, 11), LEFT_PADDED)
    own = select(program, Plan.dense(program.sites))
    assert largest_difference(own.run(*inputs), program.run(*inputs)) == 0


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        ({"first": (Dense(),) * HEADS}, "missing sites"),
        ({"first": (Dense(),), "second": (Local(4),) * HEADS}, "1 patterns for 4 query heads"),
        ({"first": (Dense(),) * HEADS, "second": (Local(5),) * HEADS}, "own window 4"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    program: Program, plan: dict[str, tuple[Dense | Local, ...]], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        select(program, Plan.of(plan))


@pytest.mark.parametrize("marks", [ONES, LEFT_PADDED])
def test_padded_dense_attention_computes_what_the_sites_compute(program: Program, marks: Tensor) -> None:
    dense = lower_dense(program, padded=True)
    assert dense.sites == ()
    assert operators(dense).count("scaled_dot_product_attention") == 2
    verify_rewrite(dense, program, [hidden(2, 11), marks])


def test_unpadded_dense_attention_makes_a_mask_for_windows_only(program: Program) -> None:
    dense = lower_dense(program)
    masks = [
        node.args[3]
        for node in dense.graph.graph.nodes
        if node.target is torch.ops.aten.scaled_dot_product_attention.default
    ]
    assert masks[0] is None
    assert masks[1] is not None
    assert "repeat_interleave" not in operators(dense)
    inputs = (hidden(2, 11), ONES)
    assert largest_difference(dense.run(*inputs), program.run(*inputs)) < 1e-5


def test_one_site_can_be_lowered_alone(program: Program) -> None:
    partly = lower_dense(program, padded=True, only={"first"})
    assert [site.name for site in partly.sites] == ["second"]
    verify_rewrite(lower_dense(program, padded=True), partly, [hidden(2, 11), LEFT_PADDED])


def test_a_bound_kernel_is_called_for_its_site_alone(program: Program) -> None:
    def zeros(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None,
        head_params: Tensor,
        q_offset: int,
        scale: float,
        causal: bool,
        block_count: Tensor | None = None,
        block_index: Tensor | None = None,
        far: FarFields | None = None,
    ) -> Tensor:
        return torch.zeros_like(q)

    bind("test_lower zeros", zeros)
    lowered = lower(program, {"second": "test_lower zeros"})
    inputs = (hidden(2, 11), ONES)
    bias = program.tensors["p_second_o_bias"]
    assert torch.equal(lowered.run(*inputs)[0], bias.expand(2, 11, -1))
    assert largest_difference(lower(lowered, {}).run(*inputs), program.run(*inputs)) == 0


def test_without_key_mask_every_key_counts(program: Program) -> None:
    unpadded = drop_key_mask(program)
    assert "ne" not in operators(unpadded)
    x = hidden(2, 11)
    assert largest_difference(unpadded.run(x, LEFT_PADDED), program.run(x, ONES)) == 0


def test_a_program_read_from_json_is_selected_and_lowered_alike(program: Program) -> None:
    read = program_from_json(program_to_json(program), program.tensors)
    plan = Plan.of({"first": (Local(3, 1),) * HEADS, "second": (Local(2),) * HEADS})
    inputs = (hidden(2, 11), LEFT_PADDED)
    one, other = select(program, plan), select(read, plan)
    assert largest_difference(one.run(*inputs), other.run(*inputs)) == 0
    dense, dense_read = lower_dense(program, padded=True), lower_dense(read, padded=True)
    assert largest_difference(dense.run(*inputs), dense_read.run(*inputs)) == 0


class _Longer(torch.nn.Module):
    """Two layers of one window, the second over twice as many positions."""

    def __init__(self) -> None:
        super().__init__()
        near = masked(lambda query, key: (key <= query) & (key > query - 4))
        self.first, self.second = Projected(near), Projected(near)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.cat((self.first(x), x), 1))
        return out


def test_nodes_of_different_lengths_do_not_share_a_mask() -> None:
    program = raise_attention(exported(_Longer(), hidden(2, 11)))
    assert [site.window for site in program.sites] == [4, 4]
    read = program_from_json(program_to_json(program), program.tensors)
    for one in (program, read):
        verify_rewrite(lower_dense(one), one, [hidden(2, 11)])


def test_layers_of_one_key_mask_share_a_mask_without_shapes(tiny_program: Program) -> None:
    read = program_from_json(program_to_json(tiny_program), tiny_program.tensors)
    before, after = (
        operators(program).count("logical_and") for program in (read, lower_dense(read, padded=True))
    )
    assert len(read.sites) == 2 and after - before == 1
