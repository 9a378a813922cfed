"""A linear layer with a second weight: which token takes which, with and without padding."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hcompile.refit_operator import multiplied_twice, refit_linear


def by_token(
    x: torch.Tensor,
    weight: torch.Tensor,
    other: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    start: int,
) -> torch.Tensor:
    """Say it once more, a token at a time."""
    rows = []
    for b, row in enumerate(x):
        seen = 0
        for s, token in enumerate(row):
            seen += 1 if mask is None else int(mask[b, s])
            rows.append(F.linear(token, other if seen > start else weight, bias))
    return torch.stack(rows).view(*x.shape[:2], -1)


def inputs(length: int = 9) -> tuple[torch.Tensor, ...]:
    return torch.randn(3, length, 8), torch.randn(6, 8), torch.randn(6, 8), torch.randn(6)


@pytest.mark.parametrize("start", [0, 1, 4, 8, 9, 20])
@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_tokens_that_see_more_take_the_second_weight(start: int, onednn: bool, with_bias: bool) -> None:
    x, weight, other, bias = inputs()
    given = bias if with_bias else None
    found = refit_linear(x, weight, other, given, None, start, onednn)
    torch.testing.assert_close(found, by_token(x, weight, other, given, None, start))
    assert found.is_contiguous()


@pytest.mark.parametrize("start", [0, 1, 4, 8, 9])
@pytest.mark.parametrize(
    "mask",
    [
        [[1] * 9] * 3,
        [[1] * 9, [0] * 5 + [1] * 4, [1] * 6 + [0] * 3],
        [[0] * 9, [0, 1, 0, 1, 0, 1, 1, 1, 1], [1] * 9],
    ],
    ids=["none hidden", "left and right", "empty and holes"],
)
def test_padding_is_not_seen(start: int, mask: list[list[int]]) -> None:
    x, weight, other, bias = inputs()
    valid = torch.tensor(mask, dtype=torch.bool)
    found = refit_linear(x, weight, other, bias, valid, start, False)
    wanted = by_token(x, weight, other, bias, valid, start)
    torch.testing.assert_close(found, wanted)
    # What a GPU does, which is asked for nothing.
    sees_enough = valid.cumsum(1) > start
    torch.testing.assert_close(multiplied_twice(x, weight, other, bias, sees_enough, start), wanted)


@pytest.mark.parametrize("start", [0, 1, 4, 8])
def test_without_padding_the_first_rows_are_put_in_place(start: int) -> None:
    x, weight, other, bias = inputs()
    found = multiplied_twice(x, weight, other, bias, None, start)
    torch.testing.assert_close(found, by_token(x, weight, other, bias, None, start))


def test_a_text_of_start_tokens_never_meets_the_second_weight() -> None:
    x, weight, other, _ = inputs()
    found = refit_linear(x, weight, torch.full_like(other, torch.nan), None, None, 9, False)
    torch.testing.assert_close(found, F.linear(x, weight))


@pytest.mark.parametrize("with_mask", [False, True])
def test_torch_accepts_the_registration(with_mask: bool) -> None:
    x, weight, other, bias = inputs()
    mask = torch.ones(3, 9, dtype=torch.bool) if with_mask else None
    torch.library.opcheck(refit_linear, (x, weight, other, bias, mask, 4, False))
