"""`torch.ops.hcompile.refit_linear`: an output projection with a second weight for tokens that see enough of the text.

    refit_linear(x, weight, refitted, bias, key_mask, start, onednn) -> out

    x                 [B, S, K], the attention's output, heads side by side
    weight, refitted  [N, K], the model's own weight and the one that makes up for what a plan does not read
    bias              [N] or None
    key_mask          bool [B, S], True for valid tokens, or None
    start             a token that sees at most this many keys (itself and valid ones before it) takes `weight`
    onednn            multiply through oneDNN (float32 on CPUs)
    out               [B, S, N]

Tokens at the start of a text lose little to windows and blocks, and a weight fitted to those that do harms them. So a
text of up to `start` tokens is computed as if there were no second weight, wherever padding puts it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hcompile.linear_operator import onednn_linear

_library = torch.library.Library("hcompile", "FRAGMENT")
_library.define(
    "refit_linear(Tensor x, Tensor weight, Tensor refitted, Tensor? bias, Tensor? key_mask, int start, bool onednn) "
    "-> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _refit_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    refitted: torch.Tensor,
    bias: torch.Tensor | None,
    key_mask: torch.Tensor | None,
    start: int,
    onednn: bool,
) -> torch.Tensor:
    linear = onednn_linear if onednn else F.linear
    length = x.shape[1]
    if length <= start:
        return linear(x, weight, bias).contiguous()
    sees_enough = None if key_mask is None else key_mask.cumsum(1) > start
    if x.device.type != "cpu":
        return multiplied_twice(x, weight, refitted, bias, sees_enough, start).contiguous()
    first, last = start, start
    if sees_enough is not None:
        # Before `first` no row of the batch has seen enough, from `last` on all have.
        counts = (length - sees_enough.sum(1)).tolist()
        first, last = min(counts, default=0), max(counts, default=0)
    out = x.new_empty((*x.shape[:2], weight.shape[0]))
    if first:
        out[:, :first] = linear(x[:, :first], weight, bias)
    if last < length:
        out[:, last:] = linear(x[:, last:], refitted, bias)
    if sees_enough is not None and first < last:
        part = x[:, first:last]
        own, other = linear(part, weight, bias), linear(part, refitted, bias)
        out[:, first:last] = torch.where(sees_enough[:, first:last, None], other, own)
    return out


def multiplied_twice(
    x: torch.Tensor,
    weight: torch.Tensor,
    refitted: torch.Tensor,
    bias: torch.Tensor | None,
    sees_enough: torch.Tensor | None,
    start: int,
) -> torch.Tensor:
    """Return the operator's output without a look at what `sees_enough`, bool `[B, S]` or None for no padding, holds.

    Looking would wait for a GPU. Some rows are multiplied by both weights, and none is copied but the first ones.
    """
    out = F.linear(x, refitted, bias)
    if sees_enough is not None:
        return torch.where(sees_enough[..., None], out, F.linear(x, weight, bias))
    out[:, :start] = F.linear(x[:, :start], weight, bias)
    return out


def _refit_linear_fake(
    x: torch.Tensor,
    weight: torch.Tensor,
    refitted: torch.Tensor,
    bias: torch.Tensor | None,
    key_mask: torch.Tensor | None,
    start: int,
    onednn: bool,
) -> torch.Tensor:
    torch._check(x.dim() == 3, lambda: f"refit_linear: x is {tuple(x.shape)}, wanted [B, S, K]")
    torch._check(
        weight.shape == refitted.shape and x.shape[-1] == weight.shape[1],
        lambda: (
            f"refit_linear: x {tuple(x.shape)}, weights {tuple(weight.shape)} and {tuple(refitted.shape)}"
        ),
    )
    return x.new_empty((*x.shape[:2], weight.shape[0]))


_library.impl("refit_linear", _refit_linear, "CompositeExplicitAutograd")
torch.library.register_fake("hcompile::refit_linear", _refit_linear_fake, lib=_library)

refit_linear = torch.ops.hcompile.refit_linear.default
