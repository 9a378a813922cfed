"""Parameters of windows that widen: right at each length, and the same tensor for the same length."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch._subclasses import FakeTensorMode

from hcompile.errors import KernelError
from hcompile.operator import Kernel, attention, bind, bound_attention
from hcompile.patterns import UNBOUNDED, Dense, Local, Pattern
from hcompile.reference import attention_reference
from hcompile.widening import Widened, widened

HEADS: tuple[Pattern, ...] = (
    Dense(),
    Local(2, 1, widening=256),
    Local(3),
    Local(1, 2, widening=7),
)
PARAMS = torch.tensor([pattern.params() for pattern in HEADS], dtype=torch.int32)
WIDENING = torch.tensor([pattern.widening for pattern in HEADS], dtype=torch.int32)


def call(length: int, *, grad: bool = False) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(length)
    return tuple(torch.randn(2, heads, length, 8, generator=rng).requires_grad_(grad) for heads in (4, 2, 2))


def rigid(length: int) -> torch.Tensor:
    return torch.tensor([pattern.at(length).params() for pattern in HEADS], dtype=torch.int32)


@pytest.mark.parametrize("length", [1, 256, 257, 2**29])
def test_parameters_are_those_of_the_patterns_at_the_length(length: int) -> None:
    found = widened(PARAMS, WIDENING, length)
    assert found.dtype == torch.int32
    wanted = [[min(window, UNBOUNDED), sinks] for window, sinks in rigid(length).tolist()]
    assert (found - torch.tensor(wanted)).abs().max() <= 1  # A pattern's own window stays below UNBOUNDED.


def test_a_step_has_one_tensor_until_the_parameters_change() -> None:
    known, params = Widened(), PARAMS.clone()
    first = known.of(params, WIDENING, 8)
    assert known.of(params, WIDENING, 256) is first
    assert known.of(params, WIDENING, 257) is not first
    params[1, 0] += 1
    assert known.of(params, WIDENING, 8).tolist() == widened(params, WIDENING, 8).tolist()


@pytest.mark.parametrize("length", [1, 7, 300])
def test_the_operator_computes_what_rigid_windows_do(length: int) -> None:
    q, k, v = call(length)
    rest = (None, None, 0, 8**-0.5, True, "", None, None)
    found = attention(q, k, v, None, PARAMS, *rest, WIDENING)
    torch.testing.assert_close(found, attention_reference(q, k, v, None, rigid(length), 0, 8**-0.5, True))


def test_its_gradient_is_that_of_rigid_windows() -> None:
    rest = (None, None, 0, 8**-0.5, True, "", None, None)
    mine, others = call(12, grad=True), call(12, grad=True)
    attention(*mine, None, PARAMS, *rest, WIDENING).square().sum().backward()
    attention(*others, None, rigid(12), *rest).square().sum().backward()
    for one, other in zip(mine, others, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_torch_accepts_it() -> None:
    q, k, v = call(6)
    torch.library.opcheck(
        attention, (q, k, v, None, PARAMS, None, None, 0, 8**-0.5, True, "", None, None, WIDENING)
    )


def test_a_kernel_is_called_with_one_tensor_for_a_length() -> None:
    seen = []

    def kernel(q: torch.Tensor, k: Any, v: Any, key_mask: Any, head_params: Any, *_: Any) -> torch.Tensor:
        seen.append(head_params)
        return torch.zeros_like(q)

    bind("test of widening", cast(Kernel, kernel))
    for length in (5, 300, 5):
        q, k, v = call(length)
        rest = (None, None, 0, 8**-0.5, True, "test of widening", None, None)
        bound_attention(q, k, v, None, PARAMS, *rest, WIDENING)
    assert seen[0] is seen[2] and seen[0] is not seen[1]


@pytest.mark.parametrize("wrong", [WIDENING[:2], WIDENING.long()])
def test_a_tensor_that_does_not_fit_is_refused_when_traced(wrong: torch.Tensor) -> None:
    q, k, v = call(6)
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(each) for each in (q, k, v, PARAMS, wrong)]
        rest = (None, None, 0, 8**-0.5, True, "", None, None)
        with pytest.raises(RuntimeError, match="widening is"):
            attention(*fake[:3], None, fake[3], *rest, fake[4])


@pytest.mark.gpu
def test_a_graph_is_captured_after_a_call_at_its_length() -> None:
    known, params, widening = Widened(), PARAMS.cuda(), WIDENING.cuda()
    known.of(params, widening, 8)
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        known.of(params, widening, 8)
        with pytest.raises(KernelError, match="call a node once at this length"):
            known.of(params, widening, 300)
