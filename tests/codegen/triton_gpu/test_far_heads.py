"""Which heads have far fields is found out once for a node, and anew where a tensor has changed."""

from __future__ import annotations

import pytest
import torch

from hcompile.codegen.triton_gpu.far_heads import Splits
from hcompile.errors import KernelError
from hcompile.far_field import FarFields
from hcompile.patterns.linear import FEATURES

Q = torch.zeros(1, 3, 5, 8)


def node() -> tuple[torch.Tensor, FarFields]:
    params = torch.tensor([[64, 4], [32, 0], [512, 64]], dtype=torch.int32)
    return params, FarFields(torch.randn(3, 2, FEATURES, 9), torch.tensor([True, False, True]))


def test_heads_are_split_widest_window_first_and_maps_are_a_sum_of_two() -> None:
    params, far = node()
    split = Splits().of(params, far, Q.bfloat16(), causal=True)
    assert split is not None
    assert split.far.table[:, 0].tolist() == [2, 0] and split.near.table[:, 0].tolist() == [1]
    assert split.maps.dtype == torch.bfloat16 and split.maps.shape == (3, 2, 2, FEATURES, 8)
    error = split.maps.float().sum(2) - far.maps[..., :-1]
    assert error.abs().max() <= 2**-16 * far.maps.abs().max()
    assert torch.equal(split.biases, far.maps[..., -1])


def test_a_split_is_kept_until_a_tensor_changes() -> None:
    (params, far), splits = node(), Splits()
    first = splits.of(params, far, Q, causal=True)
    assert splits.of(params, far, Q, causal=True) is first
    for tensor in (params, far.maps):
        tensor.add_(1)
        again = splits.of(params, far, Q, causal=True)
        assert again is not first and splits.of(params, far, Q, causal=True) is again
        first = again
    far.heads.zero_()
    assert splits.of(params, far, Q, causal=True) is None
    assert splits.of(params, None, Q, causal=True) is None


def test_splits_of_tensors_that_are_gone_are_forgotten() -> None:
    splits = Splits()
    for _ in range(20):
        splits.of(*node(), Q, causal=True)
    assert len(splits._known) <= 2


@pytest.mark.parametrize(
    ("q", "causal", "says"),
    [
        (Q, False, "causal"),
        (Q[:, :2], True, "wanted bool \\[2\\]"),
        (torch.zeros(1, 3, 5, 16), True, "wanted \\[3, 2, 16, 17\\]"),
    ],
)
def test_a_call_that_does_not_fit_is_refused_also_behind_one_that_did(
    q: torch.Tensor, causal: bool, says: str
) -> None:
    (params, far), splits = node(), Splits()
    splits.of(params, far, Q, causal=True)
    with pytest.raises(KernelError, match=says):
        splits.of(params, far, q, causal)
    with pytest.raises(KernelError, match="head_params"):
        splits.of(params[:2], far, Q, causal=True)
