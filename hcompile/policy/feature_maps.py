"""Learning the feature maps of heads whose far field is linear (`hcompile.far_field`), one site at a time.

What is learnt is the output of a dense head: maps start from clusters of keys (a feature is the share of a key in one,
and a query weighs it as it would the cluster's mean), and a few hundred steps of Adam bring what the head adds to the
layer, `|W_o (hybrid - dense)|^2` over sampled queries, down. Documents stream by: of each, a site sees the queries,
keys and values of the dense model, and takes some steps on them.

Attention transfer as in LoLCATs (arXiv:2410.10254), without its second stage: no other weight of the model changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from hcompile.far_field import KEY, QUERY
from hcompile.passes.refit import output_projections
from hcompile.patterns.linear import FEATURES, MENU
from hcompile.plan import own_pattern
from hcompile.policy.attending import Attending
from hcompile.policy.batches import make_batch
from hcompile.policy.differentiable import attend
from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface
from hcompile.program import Program
from hcompile.progress import Progress, quiet
from hcompile.site import Site

STEPS = 144
"""In all, over the documents."""
_QUERIES = 64
"""Sampled for a step, of each head."""
_RATE = 1e-2
_CLUSTER_KEYS, _CLUSTER_ROUNDS = 8192, 6
_SHARPNESS = 8.0
"""How far the share of a key in its cluster starts from even, for keys of the mean length."""
_BEGINNING = 16
"""Queries in the first part of this many of a text have hardly anything far away."""


def learn_maps(
    program: Program,
    documents: Sequence[Document],
    *,
    interface: Interface,
    seed: int = 0,
    progress: Progress = quiet,
) -> dict[str, torch.Tensor]:
    """Return float32 maps `[Hq, 2, FEATURES, D + 1]` by site, for causal sites without a window of their own.

    Args:
        program: with the model's own attention.
        documents: that certify nothing; read one at a time, without padding.
    """
    weights = {}
    for name, linear in output_projections(program).items():
        weight: Any = linear.args[1]
        weights[name] = program.tensors[weight.target]
    learners = {
        site.name: _Learner(site, weights.get(site.name), len(documents), seed)
        for site in program.sites
        if site.causal and site.window is None
    }
    for done, document in enumerate(documents):
        progress("features", done, len(documents))
        with torch.inference_mode():
            inputs = make_batch([document], interface).inputs
            run = _Tapped(program, learners)
            run.run(*(value.to(program.device) for value in inputs))
    progress("features", len(documents), len(documents))
    return {name: learner.maps for name, learner in learners.items() if learner.maps is not None}


class _Tapped(Attending):
    """Runs the dense program, and lets every site learn from what its heads get."""

    def __init__(self, program: Program, learners: Mapping[str, _Learner]) -> None:
        super().__init__(program)
        self._learners = learners

    def attend(self, site: Site, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if site.name in self._learners:
            with torch.inference_mode(False), torch.enable_grad():
                self._learners[site.name].learn(*(value[0].float().clone() for value in (q, k, v)))
        return attend(q, k, v, (own_pattern(site),) * site.q_heads, site)


class _Learner:
    """The maps of one site."""

    def __init__(self, site: Site, projection: torch.Tensor | None, documents: int, seed: int) -> None:
        """`projection`: `[N, Hq * D]`, None where heads go into no linear layer."""
        self.maps: torch.Tensor | None = None
        self._site = site
        self._generator = torch.Generator().manual_seed(seed + site.layer)
        self._steps = max(1, STEPS // max(1, documents))
        self._total = self._steps * documents
        self._done = 0
        self._outward = torch.eye(site.head_dim).expand(site.q_heads, -1, -1)
        if projection is not None:
            self._outward = (
                projection.detach().float().unflatten(1, (site.q_heads, site.head_dim)).permute(1, 2, 0)
            )
        self._adam: torch.optim.Adam | None = None

    def learn(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Take some steps on one document: q `[Hq, S, D]`, k and v `[Hkv, S, D]`."""
        if self._adam is None:
            self.maps = self._clusters(k)
            self._leaf = self.maps.clone().requires_grad_()
            self._adam = torch.optim.Adam([self._leaf], lr=_RATE)
        length = q.shape[1]
        windows = [pattern for pattern in MENU if pattern.hides(length)]
        for _ in range(self._steps if windows else 0):
            rate = 1 - self._done / self._total
            for group in self._adam.param_groups:
                group["lr"] = _RATE * rate
            pattern = windows[self._done % len(windows)]
            loss = self._loss(q, k, v, pattern.window, pattern.sinks)
            self._adam.zero_grad()
            loss.backward()
            self._adam.step()
            self._done += 1
        self.maps = self._leaf.detach().clone()

    def _clusters(self, k: torch.Tensor) -> torch.Tensor:
        """Return maps from clusters of the keys `[Hkv, S, D]`, by Lloyd's algorithm."""
        heads, length, head_dim = k.shape
        picked = torch.randperm(length, generator=self._generator)[:FEATURES]
        centres = k[:, picked.to(k.device)]
        if centres.shape[1] < FEATURES:
            centres = torch.cat(
                [centres, centres.new_zeros(heads, FEATURES - centres.shape[1], head_dim)], dim=1
            )
        keys = k[:, :: max(1, length // _CLUSTER_KEYS)]
        for _ in range(_CLUSTER_ROUNDS):
            nearest = (keys @ centres.transpose(1, 2) - centres.square().sum(-1)[:, None] / 2).argmax(-1)
            member = F.one_hot(nearest, FEATURES).to(keys.dtype)
            counts = member.sum(1)[..., None]
            centres = torch.where(counts > 0, member.transpose(1, 2) @ keys / counts.clamp(min=1), centres)
        sharp = _SHARPNESS / keys.square().sum(-1).mean(1)[:, None, None].clamp(min=1e-6)
        halves = centres.square().sum(-1, keepdim=True) / 2
        maps = k.new_zeros(heads, 2, FEATURES, head_dim + 1)
        maps[:, QUERY, :, :-1] = centres * self._site.scale
        maps[:, KEY] = torch.cat([centres, -halves], dim=-1) * sharp
        return maps.repeat_interleave(self._site.group, 0)

    def _loss(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int, sinks: int
    ) -> torch.Tensor:
        """Return what is missing at sampled queries, as a share of what the window alone would miss, over the heads."""
        site, length = self._site, q.shape[1]
        least = min(length // _BEGINNING, length - 1)
        at = torch.randint(least, length, (_QUERIES,), generator=self._generator).to(q.device)
        queries = q[:, at].unflatten(0, (site.kv_heads, site.group)).flatten(1, 2)  # [Hkv, group * Q, D]
        distance = at[:, None] - torch.arange(length, device=q.device)
        seen = distance >= 0
        near = seen & ((distance < window) | (torch.arange(length, device=q.device) < sinks))
        with torch.no_grad():
            scores = (queries @ k.transpose(1, 2) * site.scale).unflatten(1, (site.group, _QUERIES))
            scores = scores.masked_fill_(~seen, float("-inf"))
            largest = scores.amax(-1, keepdim=True)
            weights = scores.sub_(largest).exp_()
            dense = self._values(weights, v)
            near_sums = self._values(weights * near, v)
        grouped = queries.unflatten(1, (site.group, _QUERIES))
        weighing = torch.einsum("hgqd,hgfd->hgqf", grouped, self._weights(QUERY)) + self._bias(QUERY)
        belonging = torch.einsum("hsd,hgfd->hgsf", k, self._weights(KEY)) + self._bias(KEY)
        top = torch.maximum(largest, weighing.detach().amax(-1, keepdim=True))
        far_weights = ((weighing - top).exp() @ belonging.softmax(-1).transpose(-1, -2)) * (seen & ~near)
        hybrid = near_sums * (largest - top).exp() + self._values(far_weights, v)
        target = dense[..., :-1] / dense[..., -1:]
        alone = near_sums[..., :-1] / near_sums[..., -1:].clamp(min=1e-30)
        got = hybrid[..., :-1] / hybrid[..., -1:].clamp(min=1e-30)
        missing, of = (self._outwards(each - target) for each in (got, alone))
        return (missing / (of.detach() + 1e-9 * of.detach().mean() + 1e-12)).sum()

    def _values(self, weights: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return `[Hkv, group, Q, D + 1]`: weighted values, and the weights added up."""
        sums = weights.flatten(1, 2) @ F.pad(v, (0, 1), value=1.0)
        parts: torch.Tensor = sums.unflatten(1, (self._site.group, _QUERIES))
        return parts

    def _weights(self, place: int) -> torch.Tensor:
        return self._by_group(self._leaf[:, place, :, :-1])

    def _bias(self, place: int) -> torch.Tensor:
        return self._by_group(self._leaf[:, place, None, :, -1])

    def _by_group(self, value: torch.Tensor) -> torch.Tensor:
        parts: torch.Tensor = value.unflatten(0, (self._site.kv_heads, self._site.group))
        return parts

    def _outwards(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean square of what heads add to the layer: `[Hkv, group]`."""
        outward = self._by_group(self._outward.to(value.device))
        mean: torch.Tensor = (value @ outward).square().sum(-1).mean(-1)
        return mean
