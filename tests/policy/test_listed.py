"""What routed heads read of a document, and the gradient through it."""

from __future__ import annotations

import torch

from hcompile.lists import listed_blocks
from hcompile.patterns import Dense, Local, Routed
from hcompile.policy.differentiable import attend
from hcompile.policy.listed import SiteLists, visible_to
from hcompile.reference import attention_reference
from hcompile.routing import route
from hcompile.site import Site

LENGTH = 400
SITE = Site("site", 0, 4, 2, 16, 0.4, causal=True)


def inputs(length: int = LENGTH) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)

    def made(heads: int) -> torch.Tensor:
        return torch.randn(1, heads, length, 16, generator=generator, dtype=torch.float64) * 1.5

    return made(4), made(2), made(2)


def test_lists_are_those_of_the_operator_and_the_share_counts_their_pairs() -> None:
    q, k, _ = inputs()
    params = torch.tensor([[0, 600]] * 4, dtype=torch.int32)
    lists, read = SiteLists(q, k, SITE).of(Routed(600))
    wanted = route(q, k, None, params, 0, SITE.scale, True)
    assert lists and wanted
    assert torch.equal(listed_blocks(lists, LENGTH), listed_blocks(wanted, LENGTH))
    pairs = visible_to(lists, LENGTH, True).sum((0, 2, 3)).double()
    torch.testing.assert_close(read, pairs / Dense().visited_pairs(LENGTH, LENGTH, causal=True))
    assert bool((read < 1).all())


def test_windows_have_no_lists() -> None:
    q, k, _ = inputs()
    lists, read = SiteLists(q, k, SITE).of(Local(64, 2))
    assert lists == () and read.tolist() == [1.0] * 4


def test_attention_with_a_gradient_is_the_reference_for_routed_heads() -> None:
    q, k, v = (value.requires_grad_() for value in inputs())
    patterns = (Routed(600), Local(70, 3), Routed(900), Dense())
    out = attend(q, k, v, patterns, SITE)
    params = torch.tensor([pattern.params() for pattern in patterns], dtype=torch.int32)
    wanted = attention_reference(q, k, v, None, params, 0, SITE.scale, True)
    torch.testing.assert_close(out, wanted)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    found = torch.autograd.grad(out, (q, k, v), grad)
    for one, other in zip(found, torch.autograd.grad(wanted, (q, k, v), grad), strict=True):
        torch.testing.assert_close(one, other)
