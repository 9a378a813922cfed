"""Attention whose far field is linear: exact scores near the query, learned features for all that lies further back.

A head sees a window and the first tokens as every local head does. Of the keys before the window it keeps `F` sums:
every key is shared out over `F` features, and a query weighs the sums, so that reading them costs as much as `F` keys
at any length. With phi(k) = softmax(A_k k + b_k) and psi(q) = exp(A_q q + b_q), both `[F]`, the output of a query is

    (sum over near keys of exp(scale q.k) v + psi(q) . sum over far keys of phi(k) v)
    / (the same without v)

Softmax attention and linear attention in one normalisation, as in LoLCATs (arXiv:2410.10254), with features that need
no more than an exponential (Hedgehog, arXiv:2402.04347). The features are of queries and keys as attention gets them,
rotary embedding included; `hcompile.policy.feature_maps` learns them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from hcompile.errors import KernelError
from hcompile.routing import first_valid_key

QUERY, KEY = 0, 1
"""Places in a tensor of maps `[Hq, 2, F, D + 1]`: a row is a feature, its last number a bias."""

_LEAST_BLOCK, _LARGEST_BLOCK = 64, 512


class FarFields(NamedTuple):
    """What a call of attention needs for heads with a linear far field; their windows and sinks are its parameters.

    Attributes:
        maps: `[Hq, 2, F, D + 1]`.
        heads: bool `[Hq]`, which heads have one.
    """

    maps: torch.Tensor
    heads: torch.Tensor


def check_far_fields(far: FarFields, q: torch.Tensor, causal: bool, features: int | None = None) -> None:
    """Raise KernelError where far fields do not fit a call: kernels read as far as these sizes say.

    Args:
        q: `[B, Hq, Sq, D]`.
        features: how many the kernel takes, None for any.
    """
    q_heads, head_dim = q.shape[1], q.shape[3]
    if far.heads.shape != (q_heads,) or far.heads.dtype != torch.bool or len(far.maps) != q_heads:
        raise KernelError(
            f"attention: far fields of heads {tuple(far.heads.shape)} {far.heads.dtype} with maps "
            f"{tuple(far.maps.shape)}, wanted bool [{q_heads}] and as many maps"
        )
    sizes = tuple(far.maps.shape)
    fits = len(sizes) == 4 and sizes == (q_heads, 2, features or sizes[2], head_dim + 1)
    if not fits or far.maps.device != q.device:
        raise KernelError(
            f"attention: maps are {sizes} on {far.maps.device}, wanted [{q_heads}, 2, {features or 'F'}, "
            f"{head_dim + 1}] on {q.device}; learn them for this model"
        )
    if not causal:
        raise KernelError("attention: far fields are of causal attention")


def far_rows(head_params: torch.Tensor, far: FarFields) -> torch.Tensor:
    """Return int32 `[R, 3]`: head, window and sinks of each of the R heads that have a far field."""
    heads = far.heads.nonzero()
    return torch.cat([heads.to(head_params.dtype), head_params[heads[:, 0]]], dim=1)


def replace_far_heads(
    out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    key_mask: torch.Tensor | None,
    head_params: torch.Tensor,
    far: FarFields,
    q_offset: int,
    scale: float,
) -> torch.Tensor:
    """Write what heads with a far field return into `out` `[B, Hq, Sq, D]`, and return it; k, v are `[B, Hkv, Sk, D]`.

    Heads of one window are computed together.
    """
    group = q.shape[1] // k.shape[1]
    rows = [tuple(row) for row in far_rows(head_params, far).tolist()]
    for window, sinks in sorted({row[1:] for row in rows}):
        heads = [head for head, *its in rows if its == [window, sinks]]
        keys = [head // group for head in heads]
        part = q[:, heads], k[:, keys], v[:, keys]
        own = far_field(*part, key_mask, far.maps[heads], window, sinks, q_offset, scale)
        out[:, heads] = own.to(out.dtype)
    return out


def far_field(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    key_mask: torch.Tensor | None,
    maps: torch.Tensor,
    window: int,
    sinks: int,
    q_offset: int,
    scale: float,
) -> torch.Tensor:
    """Return causal attention with a linear far field: in blocks of queries, differentiable, exact in float64.

    Args:
        q, k, v: `[B, H, Sq, D]` and `[B, H, Sk, D]`: a KV head for every query head.
        key_mask: bool `[B, Sk]`, True for valid keys, or None.
        maps: `[H, 2, F, D + 1]`.
        window, sinks: as of `hcompile.patterns.Local`, of all heads.
        q_offset: absolute position of the first query.

    Returns:
        `[B, H, Sq, D]` in the dtype of `q`; zeros for a query that sees no key.
    """
    blocks = _Blocks(q.shape[2], k.shape[2], key_mask, window, sinks, q_offset, q.device)
    near, near_log = _near(q, k, v, blocks, scale)
    wide = near_log.dtype
    key_map, query_map = (maps[:, place].to(wide) for place in (KEY, QUERY))
    features = (k.to(wide) @ key_map[:, :, :-1].transpose(1, 2) + key_map[:, None, :, -1]).softmax(-1)
    features = features * blocks.may_be_far[:, None, :, None]
    values = F.pad(v.to(wide), (0, 1), value=1.0)  # The last column adds up the weights.
    weighing = blocks.of_queries(q.to(wide)) @ query_map[:, None, :, :-1].transpose(-1, -2)
    weighing = weighing + query_map[:, None, None, :, -1]
    largest = weighing.detach().amax(-1, keepdim=True)
    psi = (weighing - largest).exp()
    # Keys before a block through their sums, and those that are far from some of its queries only. These are as many as
    # it has queries, so that the sums grow by them from block to block.
    edge_features, edge_values = (blocks.edges(value) for value in (features, values))
    edge = (psi @ edge_features.transpose(-1, -2)) * blocks.edge_is_far
    own = edge_features.transpose(-1, -2)[:, :, :-1] @ edge_values[:, :, :-1]
    sums = torch.cat([blocks.sum_before_all(features, values), own], dim=2).cumsum(2)
    far = psi @ sums + edge @ edge_values
    out = _merged(near, near_log, far, largest)
    return blocks.joined(out).to(q.dtype)


def far_field_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    key_mask: torch.Tensor | None,
    maps: torch.Tensor,
    window: int,
    sinks: int,
    q_offset: int,
    scale: float,
) -> torch.Tensor:
    """Say `far_field` once more, pair by pair: a weight for every query and key, without regard to overflow."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    queries, keys, values, wide = (value.to(dtype) for value in (q, k, v, maps))
    q_len, kv_len = q.shape[2], k.shape[2]
    valid = torch.ones(1, kv_len, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
    key = torch.arange(kv_len, device=q.device)
    position = q_offset + torch.arange(q_len, device=q.device)[:, None]
    sink = key < first_valid_key(valid)[:, None, None] + sinks
    seen = (valid[:, None] & (key <= position))[:, None]
    near = (sink | (position - key < window))[:, None]
    phi = (keys @ wide[:, KEY, :, :-1].transpose(-1, -2) + wide[:, KEY, None, :, -1]).softmax(-1)
    psi = (queries @ wide[:, QUERY, :, :-1].transpose(-1, -2) + wide[:, QUERY, None, :, -1]).exp()
    exact = (queries @ keys.transpose(-1, -2) * scale).exp()
    weights = torch.where(near, exact, psi @ phi.transpose(-1, -2)) * seen
    total = weights.sum(-1, keepdim=True)
    out: torch.Tensor = weights @ values / torch.where(total > 0, total, 1.0)
    return out.to(q.dtype)


def _merged(
    near: torch.Tensor, near_log: torch.Tensor, far: torch.Tensor, largest: torch.Tensor
) -> torch.Tensor:
    """Return the mean of both fields' values by their weights, zeros where there are none.

    Args:
        near: `[..., D]`, and near_log `[..., 1]`, the logarithm of its weight.
        far: `[..., D + 1]`, values and their weight, both divided by the exponential of largest `[..., 1]`.
    """
    sums, weight = far[..., :-1], far[..., -1:]
    there = weight.clamp(min=torch.finfo(weight.dtype).tiny)
    far_log = (largest + there.log()).masked_fill(weight <= 0, float("-inf"))
    top = torch.maximum(near_log, far_log).detach().clamp(min=torch.finfo(weight.dtype).min)
    near_share, far_share = (near_log - top).exp(), (far_log - top).exp()
    total = (near_share + far_share).clamp(min=torch.finfo(weight.dtype).tiny)
    return (near * near_share + sums / there * far_share) / total


class _Blocks:
    """Which keys the blocks of queries see how. Key `first + i` has the place i: of block b, the queries see the places
    from b * size on themselves, and those before are far from all of them."""

    def __init__(
        self,
        q_len: int,
        kv_len: int,
        key_mask: torch.Tensor | None,
        window: int,
        sinks: int,
        q_offset: int,
        device: torch.device,
    ) -> None:
        self.size = min(max(window, _LEAST_BLOCK), _LARGEST_BLOCK)
        self.count = -(-q_len // self.size)
        self.first = q_offset - window + 1
        self._q_len, self._window = q_len, window
        self.places = window - 1 + self.count * self.size
        valid = torch.ones(1, kv_len, dtype=torch.bool, device=device) if key_mask is None else key_mask
        key = torch.arange(kv_len, device=device)
        after_sinks = first_valid_key(valid)[:, None] + sinks  # [B or 1, 1]
        self.sinks = torch.arange(-sinks, 0, device=device) + after_sinks
        self.may_be_far = valid & (key >= after_sinks)
        at = torch.arange(self.places, device=device)
        position = window - 1 + torch.arange(self.count * self.size, device=device)
        distance = position.view(self.count, self.size, 1) - at.unfold(0, self._span, self.size)[:, None]
        there = self._spans(self._placed(self.may_be_far[:, None, :, None]))[:, 0, :, None, :, 0]
        # All [B or 1, 1, blocks, queries, keys].
        self.near = (there & (distance >= 0) & (distance < window))[:, None]
        self.edge_is_far = (there & (distance >= window))[:, None, ..., : self.size]
        sinks_there = valid.gather(1, self.sinks.clamp(max=kv_len - 1).expand(len(valid), -1)) & (
            self.sinks < kv_len
        )
        seen = self.sinks[:, None, None] <= position.view(self.count, self.size, 1) + self.first
        self.sink_seen = (sinks_there[:, None, None] & seen)[:, None]

    @property
    def _span(self) -> int:
        return self._window - 1 + self.size

    def of_queries(self, value: torch.Tensor) -> torch.Tensor:
        """Turn `[B, H, Sq, X]` to `[B, H, blocks, queries, X]`."""
        parts: torch.Tensor = F.pad(value, (0, 0, 0, self.count * self.size - self._q_len)).unflatten(
            2, (self.count, self.size)
        )
        return parts

    def joined(self, value: torch.Tensor) -> torch.Tensor:
        """The inverse of `of_queries`."""
        return value.flatten(2, 3)[:, :, : self._q_len]

    def near_keys(self, value: torch.Tensor) -> torch.Tensor:
        """Turn `[B, H, Sk, X]` to the sinks and the keys that some query of a block sees: `[B, H, blocks, keys, X]`."""
        batch, heads, kv_len, width = value.shape
        index = (
            self.sinks.clamp(max=kv_len - 1).expand(batch, -1)[:, None, :, None].expand(-1, heads, -1, width)
        )
        sinks = value.gather(2, index)[:, :, None].expand(-1, -1, self.count, -1, -1)
        return torch.cat([sinks, self._spans(self._placed(value))], dim=3)

    def edges(self, value: torch.Tensor) -> torch.Tensor:
        """Turn `[B, H, Sk, X]` to the keys that are far from some queries of a block: `[B, H, blocks, keys, X]`."""
        firsts = self._placed(value)[:, :, : self.count * self.size]
        parts: torch.Tensor = firsts.unflatten(2, (self.count, self.size))
        return parts

    def sum_before_all(self, features: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over the keys before the first place: `[B, H, 1, F, D + 1]`."""
        before = max(0, self.first)
        return (features[:, :, :before].transpose(-1, -2) @ values[:, :, :before])[:, :, None]

    def _placed(self, value: torch.Tensor) -> torch.Tensor:
        """Move `[B, H, Sk, X]` to the places of keys, zeros where there is none: `[B, H, places, X]`."""
        moved = F.pad(
            value[:, :, max(0, self.first) : self.first + self.places], (0, 0, max(0, -self.first), 0)
        )
        return F.pad(moved, (0, 0, 0, self.places - moved.shape[2]))

    def _spans(self, value: torch.Tensor) -> torch.Tensor:
        """View `[B, H, places, X]` as `[B, H, blocks, span, X]`."""
        return value.unfold(2, self._span, self.size).transpose(-1, -2)


def _near(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, blocks: _Blocks, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention to the near keys and sinks `[B, H, blocks, queries, D]`, and the logarithm of what it was
    divided by `[B, H, blocks, queries, 1]`, which is -inf where there is no such key: in float32 at least."""
    wide = torch.promote_types(q.dtype, torch.float32)
    seen = torch.cat([blocks.sink_seen, blocks.near], dim=-1)
    queries, keys, values = blocks.of_queries(q), blocks.near_keys(k), blocks.near_keys(v)
    # Its gradient leaves out what goes through the logarithm.
    if q.device.type == "cpu" and not (
        torch.is_grad_enabled() and any(value.requires_grad for value in (q, k, v))
    ):
        hidden = torch.zeros(seen.shape, dtype=q.dtype).masked_fill_(~seen, float("-inf"))
        batch = q.shape[0]
        args = (value.transpose(1, 2).flatten(0, 1) for value in (queries, keys, values))
        mask = hidden.expand(batch, -1, -1, -1, -1).transpose(1, 2).flatten(0, 1)
        out, log = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *args, attn_mask=mask, scale=scale
        )
        out, log = (
            value.unflatten(0, (batch, blocks.count)).transpose(1, 2) for value in (out, log[..., None])
        )
        nothing = ~seen.any(-1, keepdim=True)
        return out.to(wide).masked_fill(nothing, 0.0), log.to(wide).masked_fill(nothing, float("-inf"))
    scores = ((queries.to(wide) @ keys.to(wide).transpose(-1, -2)) * scale).masked_fill(~seen, float("-inf"))
    log = scores.logsumexp(-1, keepdim=True)
    weights = (scores - log.clamp(min=torch.finfo(wide).min)).exp()
    return weights @ values.to(wide), log
