"""Verifying a rewrite: the raised graph computes what the original computes, to rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Interpreter, Node

from hcompile.errors import HCompileError, UsageError
from hcompile.passes.sites import KEY_MASK
from hcompile.program import SITE_META, Program

_MARGIN = 4
"""Two orders of summation differ by several roundings, not one."""


def verify_rewrite(original: Program, raised: Program, inputs: Sequence[torch.Tensor]) -> float:
    """Run both programs and return the largest difference of their outputs, relative to the largest output.

    Rows of padding (no valid key at their position) are not compared where an output is `[B, S, ...]`. The tolerance is
    what the rounding errors of every attention do to the model's outputs, times a margin.

    Raises:
        UsageError: an output of the original is not finite.
        HCompileError: the outputs differ by more.
    """
    with torch.no_grad():
        expected = original.run(*inputs)
    return compare_outputs(expected, raised, inputs)


def compare_outputs(
    expected: Sequence[torch.Tensor], raised: Program, inputs: Sequence[torch.Tensor]
) -> float:
    """Compare a raised program with known outputs; see `verify_rewrite`.

    Raises:
        UsageError: a known output is not finite.
        HCompileError: as `verify_rewrite`.
    """
    with torch.no_grad():
        exact = _Run(raised, noise=False)
        outputs = exact.run(*inputs)
        disturbed = _Run(raised, noise=True).run(*inputs)
    worst = 0.0
    for place, (wanted, found, moved) in enumerate(zip(expected, outputs, disturbed, strict=True)):
        rows = exact.valid if exact.valid is not None and wanted.shape[:2] == exact.valid.shape else ...
        wanted, found, moved = (value[rows].double() for value in (wanted, found, moved))
        if not wanted.numel():
            continue
        if not wanted.isfinite().all():
            raise UsageError(
                f"the model's own output {place} is not finite, on sample or random inputs: "
                "check the weights and the dtype"
            )
        size = max(float(wanted.abs().max()), torch.finfo(torch.float32).tiny)
        error = float((found - wanted).abs().max()) / size
        rounding = float((moved - found).abs().max()) / size
        dtype = expected[place].dtype
        unit = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
        # Written so that a NaN fails.
        if not error <= _MARGIN * (rounding + unit):
            raise HCompileError(
                f"the rewritten attention differs from the model's by {error:.1e} at output {place} "
                f"(rounding explains {_MARGIN * (rounding + unit):.1e}): this is a defect, please report the model"
            )
        worst = max(worst, error)
    return worst


class _Run(Interpreter):
    """Runs a program, notes which positions hold valid keys, and disturbs every attention if asked to."""

    def __init__(self, program: Program, *, noise: bool) -> None:
        super().__init__(program.graph)
        self.valid: torch.Tensor | None = None
        self._noise = noise
        self._generator = torch.Generator().manual_seed(0)

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if SITE_META not in n.meta:
            return value
        mask = n.args[KEY_MASK]
        if isinstance(mask, Node):
            self.valid = self.env[mask]
        if not self._noise:
            return value
        noise = torch.randn(value.shape, generator=self._generator).to(value.dtype)
        return value + noise * value.abs().amax(-1, keepdim=True) * _rounding(value.dtype, value.shape[2])


def _rounding(dtype: torch.dtype, keys: int) -> float:
    """Return the relative error of an attention output: that of its dtype, and that of a sum over its keys.

    The sum is kept in float32 or better, and its roundings add up like the steps of a random walk.
    """
    eps = torch.finfo(dtype).eps
    return eps + math.sqrt(keys) * min(eps, torch.finfo(torch.float32).eps)
