"""The order in which a kernel takes its heads: those that see most keys first, so that none of them comes last."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from operator import neg
from weakref import ref

import torch

from hcompile.errors import KernelError

LIST = 0
"""The window of a head that reads a list of key blocks."""


@dataclass(frozen=True, slots=True, eq=False)
class HeadOrder:
    """Query heads, widest window first; those with lists are the last.

    Attributes:
        table: int32 `[Hq, 4]` on the device of the heads' parameters: head, window, sinks, and nothing.
        windows, sinks: the windows and the sinks in that order.
    """

    table: torch.Tensor
    windows: tuple[int, ...]
    sinks: tuple[int, ...]

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
        same = narrowest == self.windows[0] and not self.lists and not any(self.sinks)
        return narrowest if same else None

    @property
    def lists(self) -> bool:
        """Whether some head reads a list."""
        return self.windows[-1] == LIST


class HeadOrders:
    """The orders of the parameters that a kernel was called with: a node's never change, and reading them waits."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[ref[torch.Tensor], int, HeadOrder]] = {}
        self._captured: list[HeadOrder] = []

    def known(self, head_params: torch.Tensor) -> HeadOrder | None:
        """Return the order of parameters that were asked for before and have not changed since."""
        version = 0 if head_params.is_inference() else head_params._version
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
        if head_params.is_cuda and torch.cuda.is_current_stream_capturing():
            raise KernelError("attention: call a node once before a CUDA graph captures it")
        rows = [(head, *params, 0) for head, params in enumerate(head_params.tolist())]
        rows.sort(key=lambda row: -row[1])  # stable: equal heads of a KV group stay side by side
        table = torch.tensor(rows, dtype=torch.int32, device=head_params.device)
        _, windows, sinks, _ = zip(*rows, strict=True)
        found = HeadOrder(table, windows, sinks)
        version = 0 if head_params.is_inference() else head_params._version
        self._known = {at: entry for at, entry in list(self._known.items()) if entry[0]() is not None}
        self._known[id(head_params)] = (ref(head_params), version, found)
        return found
