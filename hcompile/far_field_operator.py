"""`torch.ops.hcompile.far_heads`: what heads with a linear far field return, in the place of what a kernel left there.

    far_heads(out, q, k, v, key_mask, maps, far_params, q_offset, scale) -> out

    out         [B, Hq, Sq, D], of the attention operator; heads without a far field keep it
    q, k, v     as of the attention operator (`hcompile.operator`), causal
    key_mask    bool [B, Sk], True for valid keys, or None
    maps        [Hq, 2, F, D + 1], see `hcompile.far_field`
    far_params  int32 [Hq, 2]: (window, sinks) of each query head, (0, 0) where it has no far field

Heads of one window are computed together.
"""

from __future__ import annotations

import torch

from hcompile.far_field import far_field
from hcompile.operator import empty_output
from hcompile.patterns.base import NO_FAR_FIELD

_library = torch.library.Library("hcompile", "FRAGMENT")
_library.define(
    "far_heads(Tensor out, Tensor q, Tensor k, Tensor v, Tensor? key_mask, Tensor maps, Tensor far_params, "
    "SymInt q_offset, float scale) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order),
)


def _far_heads(
    out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    key_mask: torch.Tensor | None,
    maps: torch.Tensor,
    far_params: torch.Tensor,
    q_offset: int,
    scale: float,
) -> torch.Tensor:
    # A copy, since an operator's output may not be its input.
    result = empty_output(q).copy_(out)
    group = q.shape[1] // k.shape[1]
    params = [tuple(row) for row in far_params.tolist()]
    for window, sinks in sorted(set(params) - {NO_FAR_FIELD}):
        heads = [head for head, its in enumerate(params) if its == (window, sinks)]
        keys = [head // group for head in heads]
        result[:, heads] = far_field(
            q[:, heads], k[:, keys], v[:, keys], key_mask, maps[heads], window, sinks, q_offset, scale
        )
    return result


def _far_heads_fake(
    out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    key_mask: torch.Tensor | None,
    maps: torch.Tensor,
    far_params: torch.Tensor,
    q_offset: int,
    scale: float,
) -> torch.Tensor:
    heads, head_dim = q.shape[1], q.shape[3]
    torch._check(
        maps.dim() == 4 and maps.shape[:2] == (heads, 2) and maps.shape[3] == head_dim + 1,
        lambda: f"far_heads: maps are {tuple(maps.shape)}, wanted [{heads}, 2, F, {head_dim + 1}]",
    )
    torch._check(
        far_params.dtype == torch.int32 and far_params.shape == (heads, 2),
        lambda: (
            f"far_heads: far_params is {far_params.dtype} {tuple(far_params.shape)}, wanted int32 [{heads}, 2]"
        ),
    )
    return empty_output(q)


_library.impl("far_heads", _far_heads, "CompositeExplicitAutograd")
torch.library.register_fake("hcompile::far_heads", _far_heads_fake, lib=_library)

far_heads = torch.ops.hcompile.far_heads.default
