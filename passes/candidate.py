"""A candidate: nodes that look like one attention, before anything about them is proven."""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """softmax(scale * Q K^T, masked) V as a matcher found it.

    Attributes:
        match: the matcher's name, "sdpa" or "eager".
        output: the node to replace, `[B, Hq, S, D]` or `[B * Hq, S, D]`.
        q, v: operands with their rows in the last but one dimension.
        k: likewise, or `[..., D, S]` if `k_transposed`.
        scale: factor on Q K^T that is not in the operands.
        causal: later keys are hidden, mask or not.
        mask: the node of the mask of a fused attention, or None.
        scores: the node of Q K^T in a decomposed attention; what follows it up to `weights` is masking.
        weights: the node of the weights that multiply V in a decomposed attention.
        refusal: why it cannot be raised, where the matcher knows already.
    """

    match: str
    output: Node
    q: Node
    k: Node
    v: Node
    k_transposed: bool = False
    scale: float = 1.0
    causal: bool = False
    mask: Node | None = None
    scores: Node | None = None
    weights: Node | None = None
    refusal: str | None = None
