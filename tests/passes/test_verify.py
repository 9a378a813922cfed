"""A rewrite is accepted within rounding, and refused when it computes anything else."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hcompile.errors import HCompileError, UsageError
from hcompile.passes.raise_attention import raise_attention
from hcompile.passes.select import select
from hcompile.passes.verify import verify_rewrite
from hcompile.patterns import Local
from hcompile.plan import Plan
from hcompile.program import Program
from tests.passes.attention_models import HEADS, Projected, exported, hidden


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16])
def rewrite(request: pytest.FixtureRequest) -> tuple[Program, Program, torch.dtype]:
    dtype: torch.dtype = request.param
    module: nn.Module = Projected(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)).to(
        dtype
    )
    original = exported(module, hidden(2, 11, dtype))
    return original, raise_attention(original), dtype


def test_rounding_is_accepted(rewrite: tuple[Program, Program, torch.dtype]) -> None:
    original, raised, dtype = rewrite
    assert verify_rewrite(original, raised, [hidden(3, 40, dtype)]) <= 8 * torch.finfo(dtype).eps


def test_a_head_that_sees_less_is_refused(rewrite: tuple[Program, Program, torch.dtype]) -> None:
    original, raised, dtype = rewrite
    (site,) = raised.sites
    # Past the window of nine, one pair is lost in float32; bfloat16 needs a few to tell it from rounding.
    longer = 10 if dtype == torch.float32 else 30
    other = select(raised, Plan.of({site.name: (*[Local(longer)] * (HEADS - 1), Local(9))}))
    verify_rewrite(original, other, [hidden(1, 9, dtype)])
    with pytest.raises(HCompileError, match="differs from the model's"):
        verify_rewrite(original, other, [hidden(1, longer, dtype)])


def test_not_a_number_is_refused(rewrite: tuple[Program, Program, torch.dtype]) -> None:
    original, raised, dtype = rewrite
    broken = dict(raised.tensors)
    broken["p_o_bias"] = broken["p_o_bias"] * float("nan")
    with pytest.raises(HCompileError, match="differs"):
        verify_rewrite(original, raised.with_graph(raised.edit(), broken), [hidden(1, 9, dtype)])


def test_a_model_that_gives_no_number_itself_is_the_users_to_mend(
    rewrite: tuple[Program, Program, torch.dtype],
) -> None:
    original, raised, dtype = rewrite
    sick = []
    for program in (original, raised):
        broken = {**program.tensors, "p_o_bias": program.tensors["p_o_bias"] * float("nan")}
        sick.append(program.with_graph(program.edit(), broken))
    with pytest.raises(UsageError, match="own output 0 is not finite"):
        verify_rewrite(sick[0], sick[1], [hidden(1, 9, dtype)])
