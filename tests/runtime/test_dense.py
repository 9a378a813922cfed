"""The dense model beside its hybrid: right with and without padding, and never by way of a mask of S x S."""

from __future__ import annotations

import pytest
import torch

from hcompile.passes.sites import KEY_MASK
from hcompile.program import Program
from hcompile.runtime.dense import dense_call, unpadded
from hcompile.runtime.module import Lowered

IDS = torch.arange(2 * 40).reshape(2, 40) % 64


def mask_of(*, padded: bool) -> torch.Tensor:
    mask = torch.ones_like(IDS)
    mask[0, :7] = 0 if padded else 1
    return mask


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("known", [1, None])
def test_it_computes_what_the_model_does_also_where_nobody_knows_the_mask(
    tiny_hybrid: Program, tiny_program: Program, tiny_lowered: Lowered, padded: bool, known: int | None
) -> None:
    mask = mask_of(padded=padded)
    (found,) = dense_call(tiny_hybrid, tiny_lowered, known)((IDS, mask))
    (wanted,) = tiny_program.run(IDS, mask)
    torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()], rtol=1e-4, atol=1e-5)


def test_only_a_mask_that_hides_nothing_is_none() -> None:
    assert unpadded((IDS, mask_of(padded=False)), 1)
    assert not unpadded((IDS, mask_of(padded=True)), 1) and not unpadded((IDS,), None)


def test_a_program_that_reads_no_padding_takes_the_graph_without_it(
    tiny_hybrid: Program, tiny_lowered: Lowered
) -> None:
    graph = tiny_hybrid.edit()
    program = tiny_hybrid.with_graph(graph)
    for _, node in program.attention_nodes():
        node.update_arg(KEY_MASK, None)
    (found,) = dense_call(program, tiny_lowered, None)((IDS, mask_of(padded=False)))
    (wanted,) = tiny_lowered.dense(IDS, mask_of(padded=False))
    assert torch.equal(found, wanted)
