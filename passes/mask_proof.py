"""Proving what a mask means, by evaluating the nodes that make it.

The mask is computed for a range of sizes and for every kind of padding, and compared element by element with what it
could mean. Sizes reach past every number the mask is made of, and as far as the model goes where the mask comes from a
stored tensor, so that a rule which only starts to differ there is seen.

Padding enters through one node: a boolean `[B, S]` that everything the mask takes from the inputs passes through, or an
input `[B, S]` itself, assumed to hold zeros and ones (a guard checks that in every call). A query that sees no key at
all has no defined output: such rows are not compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.fx import Node

from hcompile.guard import Guard
from hcompile.passes.candidate import Candidate
from hcompile.passes.evaluate import (
    Evaluator,
    NotUnderstood,
    concrete,
    is_size,
    same_size,
    shape_of,
)
from hcompile.passes.mask_meaning import MaskMeaning
from hcompile.passes.mask_probes import HIDDEN, LONGEST_NEAR, Shape, paddings, sizes_far, sizes_near

_SPREAD = 2.0
"""Standard deviation of the scores that the softmax is tried on, after scaling."""
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class KeyPadding:
    """Where padding enters a mask: `source` `[B, S]`, true (or not 0) for valid keys, or for padding if `inverted`."""

    source: Node
    inverted: bool

    @property
    def guard(self) -> Guard | None:
        """What the proof assumes of the inputs."""
        return (
            None if self.source.meta["val"].dtype == torch.bool else Guard("binary", str(self.source.target))
        )


@dataclass(frozen=True, slots=True)
class MaskProof:
    """What a mask means: which positions are seen, and which keys are padding."""

    meaning: MaskMeaning
    padding: KeyPadding | None


def prove_mask(
    candidate: Candidate,
    shape: Shape,
    tensors: Mapping[str, torch.Tensor],
    dims: Mapping[str, tuple[int, int | None]],
) -> MaskProof:
    """Return what the mask of a candidate means.

    Raises:
        NotUnderstood: it means something else, or that cannot be shown.
    """
    root = candidate.mask if candidate.weights is None else candidate.weights
    if root is None:
        return MaskProof(MaskMeaning(candidate.causal), None)
    cut = () if candidate.scores is None else (candidate.scores,)
    entry = _entry(root, cut, shape)
    question = _Question(candidate, root, entry, shape, tensors)
    near = sizes_near(shape, dims)
    question.visible(near[-1], None if entry is None else question.marks(near[-1], value=True))
    heads = shape.heads if candidate.scores is not None and candidate.scores.meta["val"].dim() == 3 else 1
    probes = [*near, *sizes_far(_cone(root, cut), heads, shape, tensors, dims)]
    for padding in [None] if entry is None else [KeyPadding(entry, False), KeyPadding(entry, True)]:
        meaning = question.reading(padding, probes[-1])
        # Softmaxes of long rows are slow to try: only where no size is short.
        if meaning is not None and all(
            question.agrees(meaning, padding, sizes, weigh=place == 0 or question.is_near(sizes))
            for place, sizes in enumerate(probes)
        ):
            return MaskProof(meaning, padding)
    raise NotUnderstood("its mask is no causal mask, no window, and no padding of keys")


@dataclass(frozen=True, slots=True)
class _Question:
    candidate: Candidate
    root: Node
    entry: Node | None
    shape: Shape
    tensors: Mapping[str, torch.Tensor]

    def marks(self, sizes: Mapping[str, int], *, value: bool) -> torch.Tensor:
        """Return `[B, S]` of one value, to stand for what enters the mask."""
        return torch.full(self._measure(sizes), value)

    def reading(self, padding: KeyPadding | None, sizes: Mapping[str, int]) -> MaskMeaning | None:
        """Return the one meaning that the mask of rows without padding can have at these sizes."""
        seen = self.visible(
            sizes, None if padding is None else self.marks(sizes, value=not padding.inverted)
        )[0, 0]
        reach = int(seen[-1].sum())
        if reach == 0:
            return None
        return MaskMeaning(
            causal=not bool(seen.triu(1).any()), window=reach if reach < seen.shape[-1] else None
        )

    def seen(
        self, sizes: Mapping[str, int], marks: torch.Tensor | None, scores: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the mask (fused) or the weights (decomposed) as `[B or 1, Hq or 1, S, S]`."""
        given = {}
        if self.entry is not None and marks is not None:
            given[self.entry] = marks.to(self.entry.meta["val"].dtype)
        if self.candidate.scores is not None and scores is not None:
            given[self.candidate.scores] = scores
        return self._four(Evaluator(self.tensors, sizes, given).tensor(self.root), sizes)

    def visible(self, sizes: Mapping[str, int], marks: torch.Tensor | None) -> torch.Tensor:
        """Return which pairs the mask lets see each other, bool `[B or 1, Hq or 1, S, S]`."""
        if self.candidate.scores is None:
            mask = self.seen(sizes, marks, None)
            if mask.dtype == torch.bool:
                return mask
            if not ((mask == 0) | (mask <= HIDDEN)).all():
                raise NotUnderstood("its mask holds a bias")
            return mask == 0
        weights = self.seen(sizes, marks, self._scores(sizes, spread=0.0)).float().nan_to_num(0.0)
        seen = weights > 0
        # Equal scores leave equal weights, unless something is added to them.
        uniform = seen / seen.sum(-1, keepdim=True).clamp(min=1)
        if not torch.allclose(weights, uniform, rtol=4 * torch.finfo(self._dtype()).eps, atol=0):
            raise NotUnderstood("its scores get a bias, or its weights are not those of a softmax")
        return seen

    def is_near(self, sizes: Mapping[str, int]) -> bool:
        """Whether the rows are so short at these sizes that everything is tried."""
        return self._measure(sizes)[1] <= LONGEST_NEAR

    def agrees(
        self, meaning: MaskMeaning, padding: KeyPadding | None, sizes: Mapping[str, int], *, weigh: bool
    ) -> bool:
        """Whether the mask means this at these sizes, for every kind of padding.

        Args:
            weigh: see to it that a decomposed attention's weights are those of a softmax, too.
        """
        batch, length = self._measure(sizes)
        position = torch.arange(length)
        placed = meaning.visible(position[:, None], position[None, :])[None, None]
        near = self.is_near(sizes)
        for marks in paddings(batch, length, every=near) if padding is not None else [None]:
            expected = placed
            if marks is not None and padding is not None:
                expected = placed & (marks ^ padding.inverted)[:, None, None, :]
            rows = expected.any(-1, keepdim=True)
            seen = self.visible(sizes, marks)
            if ((seen != expected) & rows).any():
                return False
            decomposed = self.candidate.scores is not None
            if decomposed and weigh and not self._is_softmax(expected, rows, sizes, marks):
                return False
        return True

    def _is_softmax(
        self, visible: torch.Tensor, rows: torch.Tensor, sizes: Mapping[str, int], marks: torch.Tensor | None
    ) -> bool:
        """Whether the weights are the softmax of the scaled scores over what is visible."""
        scores, scale = self._scores(sizes, spread=_SPREAD), self.candidate.scale
        weights, scores = self.seen(sizes, marks, scores), self._four(scores, sizes)
        # Rounding of a scaled score is an absolute error of the exponent, and the roundings of a sum over keys add up
        # like the steps of a random walk.
        largest = float(scores.abs().amax()) * abs(scale) if scores.numel() else 0.0
        tolerance = (8 + 4 * largest + math.sqrt(scores.shape[-1])) * torch.finfo(self._dtype()).eps
        for first in range(0, scores.shape[2], _ROWS_AT_ONCE):
            some = (..., slice(first, first + _ROWS_AT_ONCE), slice(None))
            scaled = scores[some].double() * scale
            expected = scaled.masked_fill(~visible[some], float("-inf")).softmax(-1).where(rows[some], 0.0)
            found = weights[some].double().where(rows[some], 0.0)
            if not torch.allclose(found, expected, rtol=tolerance, atol=1e-30):
                return False
        return True

    def _scores(self, sizes: Mapping[str, int], *, spread: float) -> torch.Tensor:
        assert self.candidate.scores is not None
        shape = [int(concrete(size, sizes)) for size in shape_of(self.candidate.scores)]
        if len(shape) == 4 and shape[2] > LONGEST_NEAR:
            # What masks long rows broadcasts over heads: one head stands for all, to save memory.
            shape[1] = 1
        noise = (
            torch.randn(shape, generator=torch.Generator().manual_seed(0)) if spread else torch.zeros(shape)
        )
        return (noise * (spread / abs(self.candidate.scale))).to(self._dtype())

    def _measure(self, sizes: Mapping[str, int]) -> tuple[int, int]:
        return int(concrete(self.shape.batch, sizes)), int(concrete(self.shape.length, sizes))

    def _dtype(self) -> torch.dtype:
        assert self.candidate.scores is not None
        dtype: torch.dtype = self.candidate.scores.meta["val"].dtype
        return dtype

    def _four(self, value: torch.Tensor, sizes: Mapping[str, int]) -> torch.Tensor:
        batch, length = self._measure(sizes)
        if self.candidate.q.meta["val"].dim() == 3 and value.dim() == 3 and value.shape[0] > 1:
            value = value.unflatten(0, (batch, self.shape.heads))
        while value.dim() < 4:
            value = value[None]
        return value.expand(*value.shape[:2], length, length)


def _cone(root: Node, cut: tuple[Node, ...]) -> list[Node]:
    """Return the nodes that `root` is computed from, up to sizes and the nodes in `cut`, latest first."""
    cone, waiting, met = [], [root], {root, *cut}
    while waiting:
        node = waiting.pop(0)
        cone.append(node)
        for used in node.all_input_nodes:
            if used not in met and not is_size(used):
                met.add(used)
                waiting.append(used)
    return cone


def _entry(root: Node, cut: tuple[Node, ...], shape: Shape) -> Node | None:
    """Return the node through which padding enters, or None where the mask depends on no input."""
    cone = _cone(root, cut)
    inputs = [node for node in cone if node.op == "placeholder"]
    if not inputs:
        return None
    for node in cone:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):  # the pieces of a chunk or a split
            continue
        narrow = value.dim() == 2 and all(map(same_size, shape_of(node), (shape.batch, shape.length)))
        if narrow and (value.dtype == torch.bool or node.op == "placeholder"):
            rest = _cone(root, (*cut, node)) if node is not root else []
            if not any(other.op == "placeholder" for other in rest):
                return node
    names = ", ".join(node.name for node in inputs)
    if all(node.meta["val"].dim() == 2 for node in inputs):
        raise NotUnderstood(
            f"its mask depends on {names}, which the export does not tie to the batch and length of its queries, "
            "or in another way than padding of keys"
        )
    raise NotUnderstood(f"its mask depends on {names} in another way than padding of keys")
