"""Calls with linear far fields, and how far a right kernel may be from the float64 reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hcompile.far_field import KEY, QUERY, FarFields
from hcompile.operator import Kernel
from hcompile.patterns import UNBOUNDED
from hcompile.patterns.linear import FEATURES
from hcompile.reference import attention_reference
from tests.codegen.kernel_cases import Call, make_call

HEADS = [(64, 4), (UNBOUNDED, 0), (17, 0), (1, 300), (33, 3), (300, 1)]
FAR = (True, False, True, True, False, True)


@dataclass(frozen=True)
class FarCall:
    """A call of attention, some of whose heads have a far field."""

    call: Call
    far: FarFields

    def run(self, kernel: Kernel) -> torch.Tensor:
        call = self.call
        rest = (call.key_mask, call.head_params, call.q_offset, call.scale, call.causal)
        return kernel(call.q, call.k, call.v, *rest, far=self.far)

    def on(self, device: str) -> FarCall:
        call = self.call
        mask = None if call.key_mask is None else call.key_mask.to(device)
        tensors = (call.q.to(device), call.k.to(device), call.v.to(device), mask, call.head_params.to(device))
        moved = Call(*tensors, call.q_offset, call.scale, call.causal)
        return FarCall(moved, FarFields(self.far.maps.to(device), self.far.heads.to(device)))


def far_call(
    q_len: int,
    kv_len: int,
    *,
    batch: int = 1,
    head_dim: int = 64,
    dtype: torch.dtype = torch.float32,
    key_mask: torch.Tensor | None = None,
    spread: float = 0.25,
    seed: int = 0,
    narrowest: int = 1,
) -> FarCall:
    """Return a call of six query heads and two KV heads.

    Args:
        spread: of the maps. narrowest: the least window of a head.
    """
    call = make_call(
        [(max(window, narrowest), sinks) for window, sinks in HEADS],
        q_len,
        kv_len,
        kv_heads=2,
        batch=batch,
        head_dim=head_dim,
        dtype=dtype,
        key_mask=key_mask,
        seed=seed,
    )
    generator = torch.Generator().manual_seed(seed + 1)
    maps = torch.randn(len(HEADS), 2, FEATURES, head_dim + 1, generator=generator) * spread
    return FarCall(call, FarFields(maps, torch.tensor(FAR)))


def assert_right(
    case: FarCall, out: torch.Tensor, *, maps_unit: float | None = None, features_unit: float = 0.0
) -> None:
    """Assert that every element is as near to the float64 reference as its error analysis says.

    As in `kernel_cases.assert_right`, a near weight is wrong by a factor 1 + e. A far one is the product of psi, an
    exponential of D + 1 products, and phi, a softmax of such: three exponentials, of sums that are wrong by (D + 3) u
    times the sum of their terms' sizes. Both fields are added by the logarithms of their sums, which are wrong by a few
    u of their sizes. What the near field gives is rounded once more before it is added.

    Args:
        maps_unit: the roundoff of products with the maps, where that is not that of float32.
        features_unit: the roundoff of psi and phi where they are multiplied, and of the mean values of features.
    """
    call, maps = case.call, case.far.maps.double()
    assert out.shape == call.q.shape and out.dtype == call.q.dtype
    q, k, v = call.q.double(), call.k.double(), call.v.double()
    rest = (call.key_mask, call.head_params, call.q_offset, call.scale, call.causal)
    far = FarFields(maps, case.far.heads)
    wanted, mean = (attention_reference(q, k, values, *rest, far=far) for values in (v, v.abs()))
    group, head_dim = q.shape[1] // k.shape[1], q.shape[3]
    keys = k.abs().repeat_interleave(group, 1)
    unit = torch.finfo(torch.float32).eps / 2
    rounding = 0.0 if call.q.dtype == torch.float32 else torch.finfo(call.q.dtype).eps / 2
    near = (q.abs() @ keys.transpose(-1, -2)).amax(-1, keepdim=True) * call.scale
    psi, phi = (
        (value.abs() @ maps[:, place, :, :-1].abs().transpose(-1, -2) + maps[:, place, None, :, -1].abs())
        .amax(-1, keepdim=True)
        .clamp(min=1.0)
        for value, place in ((q, QUERY), (keys, KEY))
    )
    exponents = psi + 2 * phi.amax(2, keepdim=True)
    weight = (
        (head_dim + 9) * unit * (near + exponents)
        + (maps_unit or unit) * 2 * exponents
        + 16e-7
        + rounding
        + 2 * features_unit
    )
    tolerance = (
        2 * (weight + k.shape[2] * unit) * mean + (rounding + 2 * unit) * wanted.abs() + rounding * mean
    )
    error = (out.double() - wanted).abs()
    assert torch.isfinite(out).all()
    assert (error <= tolerance).all(), (
        f"error {error.max():.2e}, tolerance there {tolerance[error == error.max()]}"
    )


def padding(length: int) -> torch.Tensor:
    """Return bool `[4, length]`: rows that begin late, end early, have no key, and holes alone."""
    mask = torch.rand(4, length, generator=torch.Generator().manual_seed(0)) < 0.8
    mask[0, : length * 3 // 5] = False
    mask[1, length * 7 // 10 :] = False
    mask[2] = False
    return mask
