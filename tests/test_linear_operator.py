"""oneDNN's linear as an operator of the house."""

from __future__ import annotations

import pytest
import torch

from hcompile.linear_operator import onednn_linear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.mark.parametrize("shape", [(3, 8), (2, 5, 8), (1, 1, 8), (2, 3, 4, 8)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_it_equals_torch(shape: tuple[int, ...], with_bias: bool) -> None:
    x, weight = torch.randn(shape), torch.randn(6, 8)
    bias = torch.randn(6) if with_bias else None
    found = onednn_linear(x, weight, bias)
    torch.testing.assert_close(found, torch.nn.functional.linear(x, weight, bias))
    assert found.is_contiguous()


def test_inputs_that_are_not_contiguous_are_taken() -> None:
    x, weight = torch.randn(8, 5).T, torch.randn(6, 8)
    torch.testing.assert_close(onednn_linear(x, weight, None), torch.nn.functional.linear(x, weight))


@pytest.mark.parametrize("with_bias", [True, False])
def test_torch_accepts_the_registration(with_bias: bool) -> None:
    bias = torch.randn(6) if with_bias else None
    torch.library.opcheck(onednn_linear, (torch.randn(2, 3, 8), torch.randn(6, 8), bias))


def test_weights_that_do_not_fit_are_refused_when_traced() -> None:
    with torch.device("meta"), pytest.raises(RuntimeError, match="linear"):
        onednn_linear(torch.empty(3, 7), torch.empty(6, 8), None)
