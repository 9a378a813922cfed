"""What a mask means is proven: masks of a known meaning are read right, and those that differ anywhere are not read."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from hcompile.guard import Guard
from hcompile.passes.findings import findings
from hcompile.passes.mask_meaning import MaskMeaning
from hcompile.passes.raise_attention import raise_attention
from hcompile.passes.verify import verify_rewrite
from tests.passes.attention_models import Projected, exported, hidden, operators, reasons

_MOST = 6
_FEW = settings(max_examples=_MOST, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Written:
    """A mask as a modeller may write it. `odd` is a (query, key) pair that it treats the other way round."""

    causal: bool
    window: int | None
    padding: str | None
    form: str
    odd: tuple[int, int] | None = None

    def of(self, length: int, padding: Tensor | None) -> Tensor:
        query, key = torch.arange(length)[:, None], torch.arange(length)[None, :]
        seen = key <= query if self.causal else key >= 0
        if self.window is not None:
            seen = seen & (query - key < self.window) & (key - query < self.window)
        if self.odd is not None:
            seen = seen ^ ((query == self.odd[0]) & (key == self.odd[1]))
        seen = seen.expand(1, 1, length, length)
        if padding is not None:
            # Compared in four dimensions: nothing of [B, S] but the input itself, which a guard has to check.
            padding = padding[:, None, None, :]
            seen = seen & (padding == 0 if self.padding == "marked" else padding != 0)
        if self.form == "bool":
            return seen
        hidden_score = {"infinite": -torch.inf, "lowest": torch.finfo(torch.float32).min, "large": -1e4}[
            self.form
        ]
        return torch.zeros(()).masked_fill(~seen, hidden_score)


class Masked(nn.Module):
    def __init__(self, written: Written, *, eager: bool) -> None:
        super().__init__()
        self.written, self.eager = written, eager

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        mask = self.written.of(x.shape[1], padding)
        heads = x.unflatten(-1, (4, 8)).transpose(1, 2)
        if not self.eager:
            return F.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask).transpose(1, 2)
        scores = heads @ heads.transpose(-1, -2) * 0.3
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        out: Tensor = scores.softmax(-1) @ heads
        # [B, S, H, D], so that rows of padding are known as such and not compared: a query that sees no key is zeros
        # to us, and NaN or a mean to the spellings of masks.
        return out.transpose(1, 2)


masks = st.builds(
    Written,
    causal=st.booleans(),
    window=st.none() | st.integers(2, 60),
    padding=st.sampled_from((None, "valid", "marked")),
    form=st.sampled_from(("bool", "infinite", "lowest", "large")),
)


def _example(written: Written) -> tuple[Tensor, ...]:
    padding = torch.ones(2, 11, dtype=torch.int64)
    return (hidden(2, 11),) if written.padding is None else (hidden(2, 11), padding)


@_FEW
@given(masks, st.booleans())
def test_a_mask_of_known_meaning_is_read_as_that(written: Written, eager: bool) -> None:
    original = exported(Masked(written, eager=eager), *_example(written))
    program = raise_attention(original)
    (found,) = findings(program)
    padded = ", key padding" if written.padding else ""
    assert found.mask == MaskMeaning(written.causal, written.window).describe() + padded
    assert found.guard == ("padding" if written.padding else None)
    assert program.guards == ((Guard("binary", "padding"),) if written.padding else ())
    if written.padding is not None:
        marks = torch.tensor([[1] * 9, [0] * 3 + [1] * 6, [1] * 4 + [0] + [1] * 4, [1] * 8 + [0]])
        verify_rewrite(original, program, [hidden(4, 9), marks if written.padding == "valid" else 1 - marks])


@pytest.mark.parametrize("padding", ["valid", "marked"])
@pytest.mark.parametrize("form", ["bool", "large"])
def test_both_polarities_of_padding_are_read(padding: str, form: str) -> None:
    written = Written(True, None, padding, form)
    program = raise_attention(exported(Masked(written, eager=False), *_example(written)))
    assert [found.mask for found in findings(program)] == ["causal, key padding"]


@_FEW
@given(masks, st.booleans(), st.integers(0, 60), st.integers(0, 60))
def test_a_mask_that_differs_in_one_pair_is_not_read(
    written: Written, eager: bool, query: int, key: int
) -> None:
    odd = Written(written.causal, written.window, None, written.form, odd=(query, key))
    program = raise_attention(exported(Masked(odd, eager=eager), hidden(2, 11)))
    assert program.sites == ()
    assert len(program.left) == 1


class Layer(nn.Module):
    """Attention with a mask made of its inputs by `make`."""

    def __init__(self, make: object) -> None:
        super().__init__()
        self.make = make
        self.layer = Projected(lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask))

    def forward(self, x: Tensor, marks: Tensor) -> Tensor:
        assert callable(self.make)
        out: Tensor = self.layer(x, self.make(marks))
        return out


def test_a_boolean_of_tokens_needs_no_guard() -> None:
    # Whatever the tokens are, the mask is made of `tokens != 0` alone, and every value of that was tried.
    tokens = torch.randint(1, 9, (2, 11))
    original = exported(Layer(lambda tokens: (tokens != 0)[:, None, None, :]), hidden(2, 11), tokens)
    program = raise_attention(original)
    assert [(found.mask, found.guard) for found in findings(program)] == [
        ("bidirectional, key padding", None)
    ]
    assert program.guards == ()
    tokens[0, :4] = 0
    verify_rewrite(original, program, [hidden(2, 11), tokens])


def test_the_mask_of_segments_is_not_padding() -> None:
    def same_segment(marks: Tensor) -> Tensor:
        return (marks[:, None, :, None] == marks[:, None, None, :]) & (marks[:, None, None, :] > 0)

    program = raise_attention(
        exported(Layer(same_segment), hidden(2, 11), torch.ones(2, 11, dtype=torch.int64))
    )
    assert reasons(program) == ["its mask is no causal mask, no window, and no padding of keys"]


def test_a_mask_that_is_an_input_itself_is_not_known() -> None:
    class Given(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            heads = x[:, None]
            return F.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask[:, None])

    program = torch.export.export(Given(), (hidden(2, 11), torch.ones(2, 11, 11, dtype=torch.bool)))
    raised = raise_attention(type(exported(nn.Identity(), hidden(2, 3))).from_exported(program))
    assert reasons(raised) == ["its mask depends on mask in another way than padding of keys"]


def test_layers_that_share_a_mask_share_one_key_mask() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            attend = torch.nn.functional.scaled_dot_product_attention
            self.layers = nn.ModuleList(
                Projected(lambda q, k, v, m: attend(q, k, v, attn_mask=m)) for _ in range(3)
            )

        def forward(self, x: Tensor, marks: Tensor) -> Tensor:
            mask = (marks == 0)[:, None, None, :]
            for layer in self.layers:
                x = layer(x, mask)
            return x

    program = raise_attention(exported(Deep(), hidden(2, 11), torch.zeros(2, 11, dtype=torch.int64)))
    assert operators(program).count("attention") == 3
    assert operators(program).count("eq") == 1


@pytest.mark.parametrize(("window", "left"), [(2, [False, True]), (None, [True, True])])
def test_meaning_in_positions(window: int | None, left: list[bool]) -> None:
    seen = MaskMeaning(causal=True, window=window).visible(torch.tensor([[2]]), torch.arange(4)[None])
    assert seen.tolist() == [[*left, True, False]]
