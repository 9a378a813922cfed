"""Which projections get a second weight, and who takes it: the hybrid, and never the dense model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hcompile.errors import UsageError
from hcompile.passes.linear import use_library
from hcompile.passes.lower import drop_key_mask, lower_dense
from hcompile.passes.raise_attention import raise_attention
from hcompile.passes.refit import (
    insert_refit,
    output_projections,
    own_weights,
    refit_facts,
    refit_name,
    refit_nodes,
)
from hcompile.program import Program
from hcompile.program_json import program_from_json, program_to_json
from hcompile.runtime.inductor import CompiledGraph
from tests.passes.attention_models import exported, hidden

WIDTH, HEADS = 16, 2
Behind = Callable[[Tensor, nn.Linear], Tensor]


class Model(nn.Module):
    """One attention, and `behind` it what each case does with `[B, H, S, D]`."""

    def __init__(self, behind: Behind, *, causal: bool = True) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, 5)
        self.behind, self.causal = behind, causal

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.behind(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal), self.out)


def side_by_side(out: Tensor, linear: nn.Linear) -> Tensor:
    found: Tensor = linear(out.transpose(1, 2).flatten(2))
    return found


CASES: dict[str, tuple[Behind, bool]] = {
    "side by side": (side_by_side, True),
    "copied and reshaped": (
        lambda out, linear: linear(
            out.permute(0, 2, 1, 3).contiguous().view(out.shape[0], out.shape[2], WIDTH)
        ),
        True,
    ),
    "dimensions before heads": (lambda out, linear: linear(out.permute(0, 2, 3, 1).flatten(2)), False),
    "heads as rows": (
        lambda out, linear: linear(out.flatten(1, 2).unflatten(-1, (1, -1)).repeat(1, 1, 1, 2).flatten(2)),
        False,
    ),
    "doubled first": (lambda out, linear: linear(2 * out.transpose(1, 2).flatten(2)), False),
    "read twice": (
        lambda out, linear: (
            linear(out.transpose(1, 2).flatten(2)) + out.mean((1, 2, 3), keepdim=False)[:, None, None]
        ),
        False,
    ),
    "not projected": (lambda out, linear: out + 0 * linear.weight.sum(), False),
}


@pytest.mark.parametrize("case", CASES)
def test_only_heads_side_by_side_are_a_projection(case: str) -> None:
    behind, wanted = CASES[case]
    program = raise_attention(exported(Model(behind), hidden(2, 11)[..., :WIDTH]))
    assert len(program.sites) == 1
    assert (len(output_projections(program)) == 1) is wanted


def test_encoders_are_left_alone() -> None:
    program = raise_attention(exported(Model(side_by_side, causal=False), hidden(2, 11)[..., :WIDTH]))
    assert program.sites and not output_projections(program)


@pytest.fixture(scope="module")
def weights(tiny_program: Program) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {refit_name(site): torch.randn(32, 32, generator=generator) for site in tiny_program.sites}


@pytest.fixture(scope="module")
def refitted(tiny_program: Program, weights: dict[str, Tensor]) -> Program:
    return insert_refit(tiny_program, 5, weights)


def ids(length: int) -> tuple[Tensor, Tensor]:
    return torch.arange(2 * length).reshape(2, length) % 64, torch.ones(2, length, dtype=torch.int64)


def test_until_weights_are_given_nothing_changes(tiny_program: Program) -> None:
    program = insert_refit(tiny_program, 3)
    assert len(refit_nodes(program.graph.graph)) == 2
    torch.testing.assert_close(program.run(*ids(12)), tiny_program.run(*ids(12)))


def test_short_texts_are_as_before_and_longer_ones_are_not(tiny_program: Program, refitted: Program) -> None:
    torch.testing.assert_close(refitted.run(*ids(5)), tiny_program.run(*ids(5)))
    (before,), (after,) = tiny_program.run(*ids(12)), refitted.run(*ids(12))
    torch.testing.assert_close(after[:, :5], before[:, :5])
    assert (after[:, 5:] - before[:, 5:]).abs().amin(1).max() > 1e-3


def test_some_sites_may_go_without(tiny_program: Program, weights: dict[str, Tensor]) -> None:
    last = tiny_program.sites[-1]
    program = insert_refit(tiny_program, 5, {refit_name(last): weights[refit_name(last)]})
    assert refit_facts(program) == {"start": 5, "projections": [last.name]}
    assert refit_facts(tiny_program) is None


@pytest.mark.parametrize("library", ["default", "onednn"])
@pytest.mark.parametrize("padded", [False, True])
def test_the_dense_model_keeps_its_own_weights(
    tiny_program: Program, refitted: Program, padded: bool, library: str
) -> None:
    dense = lower_dense(use_library(refitted, library), padded=padded)
    assert not refit_nodes(dense.graph.graph) and set(dense.tensors) < set(tiny_program.tensors)
    torch.testing.assert_close(dense.run(*ids(12)), tiny_program.run(*ids(12)), rtol=1e-4, atol=1e-5)


def test_own_weights_take_the_place_of_the_second_ones(tiny_program: Program, refitted: Program) -> None:
    found = CompiledGraph(refitted).call_with(own_weights(refitted), ids(12))
    torch.testing.assert_close(found, tiny_program.run(*ids(12)), rtol=1e-4, atol=1e-5)


def test_compiled_graphs_serve_lengths_on_both_sides_of_the_start(refitted: Program) -> None:
    for program in (refitted, drop_key_mask(refitted)):
        compiled = CompiledGraph(program)
        for length in (70, 4, 5, 6):
            torch.testing.assert_close(
                compiled(*ids(length)), program.run(*ids(length)), rtol=1e-4, atol=1e-5
            )


def test_a_refitted_graph_is_read_back(refitted: Program) -> None:
    read = program_from_json(program_to_json(refitted), refitted.tensors)
    torch.testing.assert_close(read.run(*ids(12)), refitted.run(*ids(12)))


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [(5, -1, "start"), (5, True, "start"), (6, True, "projection"), (2, {"node": "input_ids"}, "weights")],
)
def test_a_damaged_one_is_refused(refitted: Program, place: int, value: object, told: str) -> None:
    graph = program_to_json(refitted)
    node = next(node for node in graph["nodes"] if node.get("target") == "hcompile.refit_linear.default")
    node["args"][place] = value
    with pytest.raises(UsageError, match=told):
        program_from_json(graph, refitted.tensors)


def test_a_second_weight_of_another_shape_is_refused(refitted: Program) -> None:
    name = refit_name(refitted.sites[0])
    tensors = {**refitted.tensors, name: torch.zeros(32, 31)}
    with pytest.raises(UsageError, match="weights are"):
        program_from_json(program_to_json(refitted), tensors)
