"""Dense baselines compute what the model computes, and the rest of a model has no attention."""

from __future__ import annotations

import pytest
import torch

from hcompile.bench.baselines import dense_candidates, without_attention
from hcompile.operator import attention
from hcompile.program import Program
from hcompile.runtime.module import Lowered

SDPA = torch.ops.aten.scaled_dot_product_attention.default


def text(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 64, (1, length), generator=torch.Generator().manual_seed(length))
    return ids, torch.ones_like(ids)


@pytest.mark.parametrize("length", [1, 33])
def test_the_baselines_agree_with_the_model_and_with_the_modules_dense_graph(
    tiny_hybrid: Program, tiny_program: Program, tiny_lowered: Lowered, length: int
) -> None:
    """The hybrid's plan leaves no trace in them."""
    candidates = dense_candidates(tiny_hybrid)
    assert list(candidates) == ["eager", "compiled dynamic", "compiled static"]
    inputs = text(length)
    wanted = tiny_program.run(*inputs)[0]
    for call in (candidates["eager"], candidates["compiled dynamic"], tiny_lowered.dense):
        (found,) = call(*inputs)
        assert not found.requires_grad
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_static_baseline_agrees_too(tiny_hybrid: Program, tiny_program: Program) -> None:
    call = dense_candidates(tiny_hybrid)["compiled static"]
    for length in (16, 33):
        wanted = tiny_program.run(*text(length))[0]
        torch.testing.assert_close(call(*text(length))[0], wanted, rtol=1e-4, atol=1e-5)


def test_the_rest_of_a_model_holds_no_attention_and_no_mask(tiny_hybrid: Program) -> None:
    rest = without_attention(tiny_hybrid)._program
    targets = {node.target for node in rest.graph.graph.nodes}
    assert attention not in targets and SDPA not in targets
    assert not any(name.startswith("hcompile_params") for name in rest.tensors)
    (mask,) = (
        node for node in rest.graph.graph.find_nodes(op="placeholder") if node.target == "attention_mask"
    )
    assert {user.target for user in mask.users} <= {torch.ops.aten.sym_size.int}
    ids, ones = text(9)
    (logits,) = rest.run(ids, ones)
    assert logits.shape == (1, 9, 64)
    changed = ids.clone()
    changed[0, 0] += 1 - 2 * (changed[0, 0] > 0)
    assert torch.equal(rest.run(changed, ones)[0][:, 1:], logits[:, 1:])
