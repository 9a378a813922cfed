"""Heads are taken widest window first, and a node's order is read off the device once."""

from __future__ import annotations

import pytest
import torch

from hcompile.codegen.triton_gpu.heads import HeadOrders, Unrouted
from hcompile.errors import KernelError

ALL = 2**31 - 1


def test_wide_windows_come_first_and_equal_ones_stay_side_by_side() -> None:
    params = torch.tensor(
        [[64, 4], [ALL, 0], [512, 64], [0, 9], [512, 64], [0, 5], [ALL, 0]], dtype=torch.int32
    )
    order = HeadOrders().of(params)
    assert order.table[:, 0].tolist() == [1, 6, 2, 4, 0, 3, 5]
    wanted = [[ALL, 0], [ALL, 0], [512, 64], [512, 64], [64, 4], [0, 9], [0, 5]]
    assert order.table[:, 1:3].tolist() == wanted
    assert order.table[:, 3].tolist() == [0, 0, 0, 0, 0, 0, 1] and order.list_heads == 2


def test_a_window_as_long_as_the_cache_counts_as_long() -> None:
    order = HeadOrders().of(torch.tensor([[64, 4], [ALL, 0], [512, 64]], dtype=torch.int32))
    assert [order.long_heads(length) for length in (1, 64, 65, 512, 513, 10**6)] == [3, 3, 2, 2, 1, 1]
    assert not order.list_heads


def test_heads_have_one_window_where_all_see_the_same() -> None:
    def one(*heads: tuple[int, int], kv_len: int = 1000) -> int | None:
        return HeadOrders().of(torch.tensor(heads, dtype=torch.int32)).one_window(kv_len)

    assert one((ALL, 0), (ALL, 0)) == one((ALL, 0), (1000, 64)) == 1000
    assert one((512, 0), (512, 0)) == 512
    assert one((512, 0), (512, 0), kv_len=300) == 300
    for heads in (((ALL, 0), (512, 0)), ((512, 0), (256, 0)), ((512, 0), (512, 64)), ((0, 0), (0, 0))):
        assert one(*heads) is None


def test_an_order_is_kept_until_the_parameters_change() -> None:
    orders = HeadOrders()
    params = torch.tensor([[64, 4], [128, 0]], dtype=torch.int32)
    first = orders.of(params)
    assert orders.of(params) is first
    params[0, 0] = 256
    assert orders.of(params).windows == (256, 128)


def test_orders_of_tensors_that_are_gone_are_forgotten() -> None:
    orders = HeadOrders()
    for window in range(1, 20):
        orders.of(torch.tensor([[window, 0]], dtype=torch.int32))
    assert len(orders._known) <= 2


def test_parameters_made_under_inference_mode_have_an_order() -> None:
    with torch.inference_mode():
        params = torch.tensor([[64, 4], [128, 0]], dtype=torch.int32)
    assert HeadOrders().of(params).windows == (128, 64)


def test_routed_heads_see_no_window_and_are_never_long() -> None:
    order = HeadOrders().of(torch.tensor([[0, 1000], [0, 1000]], dtype=torch.int32))
    assert [order.long_heads(length) for length in (1, 1000)] == [0, 0]
    assert order.one_window(1) is order.one_window(1000) is None


def test_routed_heads_are_refused_in_one_line_also_where_they_come_later() -> None:
    unrouted = Unrouted()
    params = torch.tensor([[64, 4], [128, 0]], dtype=torch.int32)
    for _ in range(2):
        unrouted.check(params)
    params[1, 0] = 0
    for _ in range(2):
        with pytest.raises(
            KernelError, match=r"^attention: 1 heads are routed, and this kernel serves none: .+$"
        ):
            unrouted.check(params)
