"""Attention of one site with a pattern for each of its heads, by a kernel and, for far fields, by their maps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

from hcompile.far_field_operator import far_heads
from hcompile.lists import Lists
from hcompile.operator import Kernel
from hcompile.patterns import Pattern
from hcompile.site import Site

Maps = Mapping[str, torch.Tensor]
"""Feature maps `[Hq, 2, F, D + 1]` by site, see `hcompile.far_field`."""

NO_MAPS: Maps = MappingProxyType({})


def maps_digest(maps: Maps) -> str | None:
    """Return the sha256 of the maps, None where there are none."""
    if not maps:
        return None
    state = hashlib.sha256()
    for name in sorted(maps):
        state.update(name.encode())
        state.update(maps[name].detach().float().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def heads_under(
    patterns: Sequence[Pattern],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    site: Site,
    kernel: Kernel,
    maps: Maps,
    listed: Lists | tuple[()] = (),
) -> torch.Tensor:
    """Return `[B, Hq, S, D]` for q `[B, Hq, S, D]` and k, v `[B, Hkv, S, D]` without padding.

    Args:
        patterns: one per query head.
        listed: the lists of heads that read some; none lets the kernel choose them.
    """
    params, far = (
        torch.tensor(rows, dtype=torch.int32, device=q.device)
        for rows in ([each.params() for each in patterns], [each.far() for each in patterns])
    )
    out = kernel(q, k, v, None, params, 0, site.scale, site.causal, *listed)
    if not any(pattern.has_far_field for pattern in patterns):
        return out
    placed: torch.Tensor = far_heads(out, q, k, v, None, maps[site.name], far, 0, site.scale)
    return placed
