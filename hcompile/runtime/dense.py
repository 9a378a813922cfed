"""The dense model beside its hybrid: what quality is measured against."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hcompile.passes.refit import own_weights
from hcompile.passes.select import plan_tensors
from hcompile.plan import Plan
from hcompile.policy.measure import Call
from hcompile.program import Program
from hcompile.runtime.module import Lowered, takes_padding


def dense_call(program: Program, lowered: Lowered, mask: int | None) -> Call:
    """Return the dense model: on torch's own attention, but for padded batches, where that takes a mask of S x S and
    ten times as long; they run our kernels under the model's own patterns and weights.

    Args:
        program: with a plan.
        mask: the input that is 1 for valid tokens, None where there is none.
    """
    own = {**plan_tensors(program, Plan.dense(program.sites)), **own_weights(program)}
    may_be_padded = takes_padding(program)

    def run(inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        if not may_be_padded or unpadded(inputs, mask):
            return lowered.dense(*inputs)
        return lowered.hybrid.call_with(own, tuple(inputs))

    return run


def unpadded(inputs: Sequence[torch.Tensor], mask: int | None) -> bool:
    """Return whether flat inputs have a mask that hides nothing."""
    return mask is not None and bool((inputs[mask] != 0).all())
