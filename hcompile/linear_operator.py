"""`torch.ops.hcompile.onednn_linear`: a linear layer through oneDNN, which Inductor leaves as it is.

Inductor lowers torch's own oneDNN linear only with frozen weights; this wrapper keeps weights shared and sizes dynamic.

    onednn_linear(x, weight, bias) -> [..., N]      x [..., K], weight [N, K], bias [N] or None
"""

from __future__ import annotations

import torch

_library = torch.library.Library("hcompile", "FRAGMENT")
_library.define(
    "onednn_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,)
)


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return out


def _linear_fake(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    torch._check(
        x.shape[-1] == weight.shape[1],
        lambda: f"linear: x {tuple(x.shape)} does not fit weight {tuple(weight.shape)}",
    )
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


_library.impl("onednn_linear", _linear, "CPU")
torch.library.register_fake("hcompile::onednn_linear", _linear_fake, lib=_library)

onednn_linear = torch.ops.hcompile.onednn_linear.default
