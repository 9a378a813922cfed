"""How far apart two right computations of a small model may lie, and weights with which mistakes lie further."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def widen(model: nn.Module, seed: int = 0, std: float = 0.2) -> None:
    """Give the matrices of a model random weights that are large enough for attention to prefer some keys."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=std, generator=generator)


def rounding(expected: Tensor, depth: int, terms: int) -> float:
    """Return how far an element may be from `expected`, in its dtype.

    A sum of n products is off by at most n eps of what its products add up to. So each of the four sums of a layer
    (projections, scores, values, feed-forward) is off by `terms` eps of the layer's largest value, and the layers'
    errors add up where norms keep values of one size, as they do in the models here.

    Args:
        depth: layers; the embedding and the head count as one more.
        terms: of the longest sum: the widest layer, or the keys of a query.
    """
    return 4 * (depth + 1) * terms * torch.finfo(expected.dtype).eps * float(expected.abs().max())


def close(found: Tensor, expected: Tensor, depth: int, terms: int) -> None:
    """Assert that `found` is `expected` but for `rounding`."""
    torch.testing.assert_close(found, expected, rtol=0, atol=rounding(expected, depth, terms))
