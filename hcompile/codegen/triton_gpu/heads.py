"""The order in which a kernel takes its heads: those that see most keys first, so that none of them comes last."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import neg
from weakref import ref

import torch

from hcompile.errors import KernelError
from hcompile.known import Known, version_of
from hcompile.patterns.blocks import LIST_WINDOW


@dataclass(frozen=True, slots=True, eq=False)
class HeadOrder:
    """Query heads, all of a node or some, widest window first; those that read lists are the last, in their order.

    Attributes:
        table: int32 `[heads, 4]` on the device of the heads' parameters: head, window, sinks, and which of the heads
            that read lists it is; 0 for others.
        windows, sinks: the windows and the sinks in that order.
        list_heads: how many heads read lists.
    """

    table: torch.Tensor
    windows: tuple[int, ...]
    sinks: tuple[int, ...]
    list_heads: int

    def long_heads(self, kv_len: int) -> int:
        """Return how many heads see every key before them in a cache of this length."""
        return bisect_right(self.windows, -kv_len, key=neg)

    def one_window(self, kv_len: int) -> int | None:
        """Return the window that all heads have in a cache of this length, `kv_len` where they see all before them.

        None where they differ, have sinks, or read lists.
        """
        narrowest = self.windows[-1]
        if narrowest >= kv_len:
            return kv_len
        same = narrowest == self.windows[0] and not self.list_heads and not any(self.sinks)
        return narrowest if same else None


class HeadOrders:
    """The orders of the parameters that a kernel was called with: a node's never change, and reading them waits."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[ref[torch.Tensor], int, HeadOrder]] = {}
        self._captured: list[HeadOrder] = []

    def known(self, head_params: torch.Tensor) -> HeadOrder | None:
        """Return the order of parameters that were asked for before and have not changed since."""
        version = version_of(head_params)
        known = self._known.get(id(head_params))
        if known is None or known[0]() is not head_params or known[1] != version:
            return None
        order = known[2]
        capturing = head_params.is_cuda and torch.cuda.is_current_stream_capturing()
        if capturing and not any(order is each for each in self._captured):
            self._captured.append(order)  # The graph addresses it for as long as it lives.
        return order

    def of(self, head_params: torch.Tensor) -> HeadOrder:
        """Return the order of these parameters, int32 `[Hq, 2]`.

        Raises:
            KernelError: a CUDA graph is being captured, and they were not asked for before.
        """
        known = self.known(head_params)
        if known is not None:
            return known
        found = order_of(list(enumerate(read(head_params))), head_params.device)
        self._known = {at: entry for at, entry in list(self._known.items()) if entry[0]() is not None}
        self._known[id(head_params)] = (ref(head_params), version_of(head_params), found)
        return found


def order_of(heads: Sequence[tuple[int, Sequence[int]]], device: torch.device) -> HeadOrder:
    """Return the order of some heads and their parameters, with its table on this device."""
    # stable: equal heads of a KV group stay side by side
    rows = sorted(((head, *params) for head, params in heads), key=lambda row: -row[1])
    windows = tuple(window for _, window, _ in rows)
    list_heads = windows.count(LIST_WINDOW)
    first = len(rows) - list_heads
    table = torch.tensor(
        [(*row, max(0, place - first)) for place, row in enumerate(rows)], dtype=torch.int32, device=device
    )
    return HeadOrder(table, windows, tuple(sinks for _, _, sinks in rows), list_heads)


class Unrouted:
    """Parameters that were found to hold no routed head; a call with known ones pays little."""

    def __init__(self) -> None:
        self._routed = Known(lambda params: sum(window == LIST_WINDOW for window, _ in read(params)))

    def check(self, head_params: torch.Tensor) -> None:
        """Raises: KernelError when a head is routed, or as `HeadOrders.of` does."""
        refuse_routed(self._routed(head_params))


def refuse_routed(heads: int) -> None:
    """Raise KernelError where some heads are routed: for kernels that read no lists."""
    if heads:
        raise KernelError(
            f"attention: {heads} heads are routed, and this kernel serves none: use hopper_prefill"
        )


def read(head_params: torch.Tensor) -> list[list[int]]:
    """Return what parameters hold; waits for a GPU. Raises: KernelError while a CUDA graph is being captured."""
    if head_params.is_cuda and torch.cuda.is_current_stream_capturing():
        raise KernelError("attention: call a node once before a CUDA graph captures it")
    rows: list[list[int]] = head_params.tolist()
    return rows
