"""Decode calls whose keys stand in pages, in any order, among pages that hold no number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tests.codegen.triton_gpu.cases import relative_error

PAGE = 16
QUERIES = 3
HEADS = ((2**31 - 1, 0), (20, 5), (40, 0), (7, 70))
"""Window and sinks of each query head."""


@dataclass(frozen=True)
class Paged:
    """One call; the last query stands at the last key.

    Attributes:
        k, v: keys side by side; k_pages, v_pages: the same keys in pages `[pages, Hkv, PAGE, D]`, and NaN elsewhere.
        table: where a sequence's pages stand; page 0, of NaN, stands for those that no query sees.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    k_pages: torch.Tensor
    v_pages: torch.Tensor
    mask: torch.Tensor | None
    params: torch.Tensor
    table: torch.Tensor

    @classmethod
    def random(
        cls, seed: int, length: int, dtype: torch.dtype, *, head_dim: int = 16, masked: bool = False
    ) -> Paged:
        """Return a call of two sequences; `masked` pads one of them on the left, and the other on the right."""
        generator = torch.Generator().manual_seed(seed)
        q, k, v = (
            torch.randn(2, tokens, heads, head_dim, generator=generator).to(dtype)
            for tokens, heads in ((QUERIES, len(HEADS)), (length, 2), (length, 2))
        )
        count = -(-length // PAGE)
        table = 1 + torch.randperm(4 * count, generator=generator)[: 2 * count].reshape(2, count)
        position = torch.arange(length)
        at = table[:, position // PAGE], position % PAGE
        pages = []
        for rows in (k, v):
            made = torch.full((1 + 4 * count, PAGE, 2, head_dim), float("nan"), dtype=dtype)
            made[at] = rows
            pages.append(made.transpose(1, 2))
        mask = None
        if masked:
            left, right = length // 4, length // 3
            mask = torch.ones(2, length, dtype=torch.bool)
            mask[0, :left] = False
            mask[1, length - right :] = False
            table[0, : left // PAGE] = 0
            table[1, -(-(length - right) // PAGE) :] = 0
        params = torch.tensor(HEADS, dtype=torch.int32)
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        k_pages, v_pages = pages
        return cls(q, k, v, k_pages, v_pages, mask, params, table.to(torch.int32))

    def arguments(self, device: str) -> list[torch.Tensor | None]:
        """Return the tensors that `run` takes, on a device."""
        given = (self.q, self.k_pages, self.v_pages, self.mask, self.params, self.table)
        return [None if each is None else each.to(device, copy=True) for each in given]

    def run(self, kernel: Any, arguments: list[torch.Tensor | None]) -> torch.Tensor:
        *others, table = arguments
        out: torch.Tensor = kernel(*others, *self._numbers(), table=table)
        return out

    def error(self, out: torch.Tensor) -> float:
        """Return the error of an output against the same keys side by side."""
        return relative_error(out, self.q, self.k, self.v, self.mask, self.params, *self._numbers())

    def _numbers(self) -> tuple[int, float, bool]:
        return self.k.shape[2] - QUERIES, self.q.shape[3] ** -0.5, True
