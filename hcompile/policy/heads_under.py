"""Attention of one site with a pattern for each of its heads, by a kernel and, for far fields, by their maps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

from hcompile.far_field import FarFields
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
    params = torch.tensor(
        [each.at(k.shape[2]).params() for each in patterns], dtype=torch.int32, device=q.device
    )
    far = None
    if any(pattern.has_far_field for pattern in patterns):
        heads = torch.tensor([each.has_far_field for each in patterns], device=q.device)
        far = FarFields(maps[site.name], heads)
    count, index = listed or (None, None)
    return kernel(q, k, v, None, params, 0, site.scale, site.causal, count, index, far)
