"""Taylor scores of every (unit, pattern): what a small change of one unit adds to the degradation of a plan.

Around a plan, the degradation of another one is expanded to second order in the attention outputs that would change:
the gradient of the degradation itself (zero around the dense plan), and its curvature through random probes (see
`surrogate`). A document costs a forward pass, a backward pass (two around a plan that is not the dense one) and an
attention call per pattern and site, not a forward pass per (head, pattern).

The curvature is summed over segments of the sequence. A probe's change over the whole sequence is right on average
and mostly noise (log-standard deviation 0.57 against measured single-head KL, 10 documents); segments drop the
covariance of far-apart tokens, which is small, and with it the noise: 0.18 with segments of 64, rank correlation
0.997, bias -4 %. What the scores leave out, changes of several units that strengthen each other, is measured by
repair and expanded again around its plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from hcompile.operator import Kernel
from hcompile.plan import Plan
from hcompile.policy.attending import Attending
from hcompile.policy.batches import Batch, make_batch
from hcompile.policy.differentiable import attend
from hcompile.policy.documents import Document
from hcompile.policy.heads_under import NO_MAPS, Maps, heads_under
from hcompile.policy.interface import Interface
from hcompile.policy.listed import SiteLists
from hcompile.policy.measure import Call
from hcompile.policy.surrogate import Surrogate
from hcompile.policy.units import Unit
from hcompile.program import Program
from hcompile.progress import Progress, quiet
from hcompile.site import Site

SEGMENT = 64
"""Tokens of a segment, see the module's docstring."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The expansion around a plan, in units of the degradation (per token).

    Attributes:
        base: the degradation of the plan itself on the profile documents.
        slope: by unit and option, the first-order change when this unit takes this option.
        curvature: the second-order one, not negative.
        kept: by unit and option, the share of the dense pairs that options read whose reading depends on the input; 1
            for others.
    """

    base: float
    slope: tuple[tuple[float, ...], ...]
    curvature: tuple[tuple[float, ...], ...]
    kept: tuple[tuple[float, ...], ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "base": self.base,
            "slope": [*map(list, self.slope)],
            "curvature": [*map(list, self.curvature)],
            "kept": [*map(list, self.kept)],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Scores:
        slope, curvature, kept = (
            tuple(tuple(map(float, row)) for row in value[name]) for name in ("slope", "curvature", "kept")
        )
        return cls(float(value["base"]), slope, curvature, kept)


@dataclass(slots=True)
class _Tap:
    """One site of one pass: what its heads read and returned. q `[1, Hq, S, D]`, k and v `[1, Hkv, S, D]`."""

    site: Site
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    out: torch.Tensor


class _Tapped(Attending):
    """Runs a program's graph under a plan with differentiable attention, and keeps the taps."""

    def __init__(self, program: Program, plan: Plan, maps: Maps) -> None:
        super().__init__(program)
        self._maps = maps
        self._plan = plan
        self.taps: list[_Tap] = []

    def attend(self, site: Site, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = attend(q, k, v, self._plan[site.name], site, self._maps)
        if not out.requires_grad:
            # No weight needs a gradient, so the first attention of every branch starts one.
            out = out.detach().requires_grad_()
        self.taps.append(_Tap(site, q.detach(), k.detach(), v.detach(), out))
        return out


def expand(
    program: Program,
    plan: Plan,
    documents: Sequence[Document],
    units: Sequence[Unit],
    *,
    interface: Interface,
    surrogate: Surrogate,
    dense: Call,
    kernel: Kernel,
    maps: Maps = NO_MAPS,
    seed: int = 0,
    stage: str = "profile",
    progress: Progress = quiet,
) -> Scores:
    """Expand the degradation around `plan` on the profile documents, one at a time and without padding.

    Args:
        dense: the dense model, for the degradation of the plan itself.
        kernel: computes a site's attention with all heads under one pattern.
        maps: of linear far fields, by site.
    """
    device = program.device
    generator = torch.Generator(device).manual_seed(seed)
    own = Plan.dense(program.sites)
    slope, curvature, kept = (
        [torch.zeros(len(unit.options), dtype=torch.float64, device=device) for unit in units]
        for _ in range(3)
    )
    base = 0.0
    tokens = 0
    for done, document in enumerate(documents):
        progress(stage, done, len(documents))
        batch = make_batch([document], interface)
        with torch.enable_grad():
            taps, rows = _run(program, plan, batch, interface, maps)
            outs = [tap.out for tap in taps]
            pull: Sequence[torch.Tensor | None] = [None] * len(outs)
            if plan != own:
                # At the dense plan nothing is lost, which is the least, so that there is no gradient.
                with torch.inference_mode():
                    expected = dense(batch.inputs)
                loss = surrogate.loss(rows, _rows(expected, interface))
                pull = torch.autograd.grad(loss, outs, retain_graph=True, materialize_grads=True)
                base += float(loss.detach())
                del loss
            push = torch.autograd.grad(surrogate.probe(rows, generator), outs, materialize_grads=True)
        tokens += len(rows)
        del rows
        with torch.no_grad():
            for tap, first, second in zip(taps, pull, push, strict=True):
                _add_site(tap, first, second, units, kernel, maps, slope, curvature, kept)
    progress(stage, len(documents), len(documents))
    return Scores(
        base / tokens,
        tuple(tuple((row / tokens).tolist()) for row in slope),
        tuple(tuple((row / tokens).tolist()) for row in curvature),
        tuple(tuple((row / len(documents)).tolist()) for row in kept),
    )


def _run(
    program: Program, plan: Plan, batch: Batch, interface: Interface, maps: Maps
) -> tuple[list[_Tap], torch.Tensor]:
    tapped = _Tapped(program, plan, maps)
    outputs = tapped.run(*(value.to(program.device) for value in batch.inputs))
    return tapped.taps, _rows(outputs, interface)


def _rows(outputs: Sequence[torch.Tensor], interface: Interface) -> torch.Tensor:
    """Return the first row of the output that counts, as float32 `[tokens, features]`."""
    # A clone, since the outputs of inference mode cannot take part in a gradient.
    value = outputs[interface.output][:1]
    return (value.clone() if value.is_inference() else value).float().flatten(0, -2)


def _add_site(
    tap: _Tap,
    pull: torch.Tensor | None,
    push: torch.Tensor,
    units: Sequence[Unit],
    kernel: Kernel,
    maps: Maps,
    slope: list[torch.Tensor],
    curvature: list[torch.Tensor],
    kept: list[torch.Tensor],
) -> None:
    """Add one document's share of the scores of one site's units."""
    mine = [index for index, unit in enumerate(units) if unit.site == tap.site]
    patterns = dict.fromkeys(pattern for index in mine for pattern in units[index].options)
    out = _by_token(tap.out)
    gradients = [None if gradient is None else _by_token(gradient) for gradient in (pull, push)]
    lists = SiteLists(tap.q, tap.k, tap.site)
    for pattern in patterns:
        listed, read = lists.of(pattern)
        its = heads_under(
            [pattern] * tap.site.q_heads, tap.q, tap.k, tap.v, tap.site, kernel, maps, listed=listed
        )
        change = _by_token(its) - out
        first, second = (
            None if gradient is None else torch.mul(gradient, change).sum(-1) for gradient in gradients
        )
        assert second is not None
        segments = _segments(second)
        for index in mine:
            unit = units[index]
            if pattern not in unit.options:
                continue
            option = unit.options.index(pattern)
            heads = list(unit.heads)
            if first is not None:
                slope[index][option] += first[:, heads].sum(dtype=torch.float64)
            curvature[index][option] += segments[:, heads].sum(1).square().sum() / 2
            kept[index][option] += read[heads].mean()


def _by_token(value: torch.Tensor) -> torch.Tensor:
    """Return `[1, H, S, D]` as contiguous float32 `[S, H, D]`."""
    return value[0].transpose(0, 1).contiguous().float()


def _segments(values: torch.Tensor) -> torch.Tensor:
    """Sum `[S, H]` over segments of the sequence: float64 `[ceil(S / SEGMENT), H]`."""
    padded = F.pad(values.double(), (0, 0, 0, -values.shape[0] % SEGMENT))
    parts: torch.Tensor = padded.unflatten(0, (-1, SEGMENT))
    return parts.sum(1)
