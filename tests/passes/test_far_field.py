"""Far fields in a graph: in the attention of the hybrid, gone from the dense model, checked when read from data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hcompile.errors import UsageError
from hcompile.far_field import far_field_reference
from hcompile.passes.far_field import far_heads, insert_far_field
from hcompile.passes.lower import lower_dense
from hcompile.passes.refit import insert_refit, output_projections, refit_nodes
from hcompile.passes.select import plan_tensors, select
from hcompile.passes.sites import FAR_HEADS, arguments
from hcompile.patterns import Dense, Linear, Local
from hcompile.patterns.linear import FEATURES
from hcompile.plan import Plan
from hcompile.policy.heads_under import heads_under
from hcompile.program import Program
from hcompile.program_json import program_from_json, program_to_json
from hcompile.reference import attention_reference
from tests.policy.tiny_programs import HEAD, Q_HEADS, tiny_text

HEADS = (Linear(8, 2), Dense(), Linear(16, 2), Local(4, 1))


def learned(program: Program) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {site.name: torch.randn(Q_HEADS, 2, FEATURES, HEAD + 1, generator=rng) for site in program.sites}


def mixed(program: Program) -> Plan:
    """Return a plan whose second site has no far field."""
    first, second = program.sites
    return Plan.of({first.name: HEADS, second.name: (Local(8, 2),) * Q_HEADS})


def ids() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(0, 256, (2, 40), generator=torch.Generator().manual_seed(1))
    valid = torch.ones_like(tokens)
    valid[1, :9] = 0
    return tokens, valid


@pytest.fixture(scope="module")
def program() -> Program:
    return tiny_text()


@pytest.fixture(scope="module")
def hybrid(program: Program) -> Program:
    return insert_far_field(select(program, mixed(program)), learned(program))


def test_only_sites_whose_plan_has_one_get_it(hybrid: Program) -> None:
    assert [len(arguments(node)) > FAR_HEADS for _, node in hybrid.attention_nodes()] == [True, False]


def test_an_exchanged_plan_gives_what_a_selected_one_does(program: Program, hybrid: Program) -> None:
    open_to_all = insert_far_field(program, learned(program))
    torch.testing.assert_close(open_to_all.run(*ids()), program.run(*ids()))
    tensors = plan_tensors(open_to_all, mixed(program))
    assert len(tensors) == 4
    exchanged = replace(open_to_all, tensors={**open_to_all.tensors, **tensors})
    exchanged = exchanged.with_graph(exchanged.edit(), exchanged.tensors)
    torch.testing.assert_close(exchanged.run(*ids()), hybrid.run(*ids()))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(hybrid.run(*ids()), program.run(*ids()))


def test_the_dense_model_has_none(program: Program, hybrid: Program) -> None:
    torch.testing.assert_close(lower_dense(hybrid, padded=True).run(*ids()), program.run(*ids()))


def test_a_refit_finds_its_projection(hybrid: Program) -> None:
    both = insert_refit(hybrid, 4)
    assert len(refit_nodes(both.graph.graph)) == len(output_projections(hybrid)) == 2


def test_heads_of_one_call_are_those_of_the_graph(program: Program) -> None:
    site = program.sites[0]
    q, k, v = (
        torch.randn(1, h, 30, HEAD, generator=torch.Generator().manual_seed(h)) for h in (Q_HEADS, 2, 2)
    )
    maps = learned(program)
    found = heads_under(HEADS, q, k, v, site, attention_reference, maps)
    for head, pattern in enumerate(HEADS):
        one, its = slice(head, head + 1), slice(head // 2, head // 2 + 1)
        if isinstance(pattern, Linear):
            wanted = far_field_reference(
                *(q[:, one], k[:, its], v[:, its], None, maps[site.name][one]),
                *pattern.params(),
                0,
                site.scale,
            )
        else:
            params = torch.tensor([pattern.params()], dtype=torch.int32)
            wanted = attention_reference(
                q[:, one], k[:, its], v[:, its], None, params, 0, site.scale, site.causal
            )
        torch.testing.assert_close(found[:, one], wanted, rtol=1e-4, atol=1e-5)


def test_a_program_with_one_survives_json(hybrid: Program) -> None:
    again = program_from_json(program_to_json(hybrid), hybrid.tensors)
    torch.testing.assert_close(again.run(*ids()), hybrid.run(*ids()))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("hcompile_maps_0", torch.zeros(Q_HEADS, 2, FEATURES, HEAD), "its feature maps are"),
        ("hcompile_maps_0", torch.zeros(Q_HEADS, 2, 8, HEAD + 1), "its feature maps are"),
        ("hcompile_maps_0", torch.zeros(Q_HEADS, 2, 16, HEAD + 1, dtype=torch.int64), "its feature maps are"),
        ("hcompile_far_0", torch.zeros(Q_HEADS, dtype=torch.int32), "heads with a far field are"),
        ("hcompile_far_0", torch.zeros(1, dtype=torch.bool), "heads with a far field are"),
        ("hcompile_far_0", torch.zeros(Q_HEADS, dtype=torch.bool), "is not that of the plan"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    hybrid: Program, name: str, value: torch.Tensor, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        program_from_json(program_to_json(hybrid), {**hybrid.tensors, name: value})


def test_a_plan_without_its_far_field_is_refused(program: Program) -> None:
    bare = select(program, mixed(program))
    with pytest.raises(UsageError, match="lacks the far field that the plan gives it"):
        program_from_json(program_to_json(bare), bare.tensors)


def test_a_far_field_that_is_computed_is_refused(hybrid: Program) -> None:
    graph = hybrid.edit()
    _, node = hybrid.attention_nodes(graph)[0]
    node.update_arg(FAR_HEADS, node.args[0])
    with pytest.raises(UsageError, match="has no tensors of a far field"):
        program_from_json(program_to_json(hybrid.with_graph(graph)), hybrid.tensors)


def test_a_node_may_say_that_it_has_none(program: Program) -> None:
    graph = program.edit()
    for _, node in program.attention_nodes(graph):
        node.args = (*node.args, None, None)
    again = program_from_json(program_to_json(program.with_graph(graph)), program.tensors)
    assert far_heads(again, Plan.dense(program.sites)) == {}


def test_only_nodes_that_have_maps_are_told_who_uses_them(program: Program, hybrid: Program) -> None:
    assert far_heads(program, mixed(program)) == {}
    (told,) = far_heads(hybrid, mixed(program)).items()
    assert told[0] == "hcompile_far_0" and told[1].tolist() == [True, False, True, False]
    assert not far_heads(hybrid, Plan.dense(program.sites))["hcompile_far_0"].any()
