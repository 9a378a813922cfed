"""Attention with a gradient, against the reference in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hcompile.patterns import Dense, Local, Pattern
from hcompile.policy import differentiable
from hcompile.policy.differentiable import attend
from hcompile.reference import attention_reference
from hcompile.site import Site


def qkv(length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(1, heads, length, 8, generator=generator, dtype=torch.float64, requires_grad=True)
        for heads in (4, 2, 2)
    )
    return q, k, v


def reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, patterns: list[Pattern], site: Site
) -> torch.Tensor:
    params = torch.tensor([pattern.params() for pattern in patterns], dtype=torch.int32)
    return attention_reference(q, k, v, None, params, 0, site.scale, site.causal)


patterns_strategy = st.lists(
    st.one_of(st.just(Dense()), st.builds(Local, st.integers(1, 90), st.integers(0, 70))),
    min_size=4,
    max_size=4,
)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 70), patterns_strategy, st.booleans())
def test_values_and_gradients_are_the_references(length: int, patterns: list[Pattern], causal: bool) -> None:
    site = Site("s", 0, 4, 2, 8, 0.3, causal=causal)
    inputs = qkv(length)
    weight = torch.randn(1, 4, length, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(differentiable, "_LEAST_BLOCK", 16)
        patch.setattr(differentiable, "_LARGEST_BLOCK", 32)
        found = attend(*inputs, patterns, site)
    expected = reference(*inputs, patterns, site)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    gradients = [torch.autograd.grad((out * weight).sum(), inputs) for out in (found, expected)]
    for mine, its in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-8, atol=1e-9)


def test_memory_is_laid_out_as_the_operators() -> None:
    out = attend(
        *qkv(20), [Dense(), Local(4, 2), Local(4, 2), Dense()], Site("s", 0, 4, 2, 8, 0.3, causal=True)
    )
    assert out.transpose(1, 2).is_contiguous()
