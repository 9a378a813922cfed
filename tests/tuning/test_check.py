"""The check of a candidate: what passes, and that each kind of wrongness is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hcompile.patterns import UNBOUNDED, Dense, Local
from hcompile.reference import attention_reference
from hcompile.tuning.check import check, poisoned_memory
from hcompile.workload import Workload


def _workload(dtype: str = "float32", *, causal: bool = True) -> Workload:
    heads = [Dense(), Local(64, 4), Local(64, 4), Local(96, 0)]
    return Workload.of(heads, kv_heads=2, head_dim=32, q_len=64, kv_len=64, causal=causal, dtype=dtype)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_eager_reference_in_the_workload_s_dtype_is_right(dtype: str, causal: bool) -> None:
    verdict = check(attention_reference, _workload(dtype, causal=causal), seed=1)
    assert verdict.right
    assert 0 < verdict.max_err < verdict.tolerance


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_output_wrong_by_one_per_cent_is_wrong(dtype: str) -> None:
    assert not check(lambda *call: attention_reference(*call) * 1.01, _workload(dtype), seed=1).right


def _without_last_key(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, *rest: Any
) -> torch.Tensor:
    keys = torch.ones(q.shape[0], k.shape[2], dtype=torch.bool) if mask is None else mask.clone()
    keys[:, -1] = False
    return attention_reference(q, k, v, keys, *rest)


def _without_mask(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, *rest: Any) -> torch.Tensor:
    return attention_reference(q, k, v, None, *rest)


def _window_off_by_one(q: Any, k: Any, v: Any, mask: Any, params: torch.Tensor, *rest: Any) -> torch.Tensor:
    return attention_reference(q, k, v, mask, params - torch.tensor([1, 0], dtype=torch.int32), *rest)


def _wrong_group(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any) -> torch.Tensor:
    return attention_reference(q, k.flip(1), v.flip(1), *rest)


def _empty_rows_not_zero(q: torch.Tensor, *rest: Any) -> torch.Tensor:
    out = attention_reference(q, *rest)
    return torch.where(out == 0, torch.full_like(out, 1e-6), out)


def _nan_where_unwritten(q: torch.Tensor, *rest: Any) -> torch.Tensor:
    out = torch.empty_like(q)
    out[:, :, 1:] = attention_reference(q, *rest)[:, :, 1:]
    return out


@pytest.mark.parametrize(
    "kernel",
    [
        _without_last_key,
        _without_mask,
        _window_off_by_one,
        _wrong_group,
        _empty_rows_not_zero,
        _nan_where_unwritten,
    ],
)
def test_kernel_with_a_typical_mistake_is_wrong(kernel: Callable[..., torch.Tensor]) -> None:
    assert not check(kernel, _workload(), seed=1).right


def _without_windows(q: Any, k: Any, v: Any, mask: Any, params: torch.Tensor, *rest: Any) -> torch.Tensor:
    return attention_reference(q, k, v, mask, torch.where(params > 7, UNBOUNDED, params), *rest)


def _without_sinks(q: Any, k: Any, v: Any, mask: Any, params: torch.Tensor, *rest: Any) -> torch.Tensor:
    return attention_reference(q, k, v, mask, params * torch.tensor([1, 0], dtype=torch.int32), *rest)


@pytest.mark.parametrize("kernel", [_without_windows, _without_sinks])
def test_windows_wider_than_the_check_are_checked_too(kernel: Callable[..., torch.Tensor]) -> None:
    workload = Workload.of(
        [Local(1024, 64)], kv_heads=1, head_dim=32, q_len=4096, kv_len=4096, causal=True, dtype="float32"
    )
    assert check(attention_reference, workload, seed=1).right
    assert not check(kernel, workload, seed=1).right


def test_a_kernel_that_writes_to_its_inputs_is_refused() -> None:
    def kernel(*call: Any, **named: Any) -> torch.Tensor:
        out = attention_reference(*call, **named)
        call[1].zero_()
        return out

    with pytest.raises(RuntimeError, match="the kernel wrote to its inputs"):
        check(kernel, _workload(), seed=1)


def test_an_output_of_another_dtype_is_refused() -> None:
    with pytest.raises(
        RuntimeError, match=r"the kernel returned .* of torch.float64, wanted .* of torch.float32"
    ):
        check(lambda *call: attention_reference(*call).double(), _workload(), seed=1)


def test_fresh_seeds_give_fresh_inputs() -> None:
    seen: list[torch.Tensor] = []

    def kernel(*call: Any, **named: Any) -> torch.Tensor:
        seen.append(call[0].clone())
        return attention_reference(*call, **named)

    for seed in (1, 1, 2):
        check(kernel, _workload(), seed)
    first, again, other = seen[0], seen[len(seen) // 3], seen[-len(seen) // 3]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_poison_is_taken_back() -> None:
    with poisoned_memory():
        assert torch.empty(3).isnan().all()
    assert torch.get_deterministic_debug_mode() == 0
