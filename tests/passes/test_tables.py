"""A table of positions limits the lengths that a program may be called with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hcompile.passes.tables import within_tables
from hcompile.program import Program
from tests.passes.attention_models import exported

ROWS = 48


class Table(nn.Module):
    """Hidden states `[B, S, 8]` and a row of a table for each position."""

    rows: Tensor

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.table = nn.Embedding(ROWS, 8)
        self.register_buffer("rows", torch.ones(ROWS, 8))

    def forward(self, x: Tensor) -> Tensor:
        position = torch.arange(x.shape[1])
        if self.how == "indexed":
            return x + self.rows[position]
        taken = {
            "embedding": position,
            "from 2 on": (position + 2)[None],
            "clamped": position.clamp(max=ROWS - 1),
            "by value": (x[..., 0] > 0).long(),
        }
        read: Tensor = self.table(taken[self.how])
        return x + read


def longest(how: str, most: int = 4096) -> int | None:
    program = within_tables(exported(Table(how), torch.ones(3, 7, 8), longest=most))
    return length_limit(program)


def length_limit(program: Program) -> int | None:
    (_, most) = program.dims[str(program.inputs[0].shape[1])]
    return most


@pytest.mark.parametrize(
    ("how", "expected"), [("embedding", ROWS), ("indexed", ROWS), ("from 2 on", ROWS - 2)]
)
def test_positions_end_with_their_table(how: str, expected: int) -> None:
    assert longest(how) == expected


def test_a_shorter_limit_of_the_export_stays() -> None:
    assert longest("embedding", most=20) == 20


@pytest.mark.parametrize("how", ["clamped", "by value"])
def test_rows_that_do_not_grow_with_the_length_limit_nothing(how: str) -> None:
    assert longest(how) == 4096
