"""Windows that widen with the number of keys of a call: what the parameters of a node's heads are at a length.

A padded batch counts as long as its longest row: the others see what they would see alone, and more.
"""

from __future__ import annotations

import torch

from hcompile.errors import KernelError
from hcompile.known import Known
from hcompile.patterns import UNBOUNDED, WIDENING_KEYS, widening_keys


def widened(head_params: torch.Tensor, widening: torch.Tensor, kv_len: int) -> torch.Tensor:
    """Return (window, sinks) of each head in a call of `kv_len` keys, int32 `[Hq, 2]`.

    Args:
        head_params: int32 `[Hq, 2]`, the same before windows widen.
        widening: int32 `[Hq]`, see `Pattern.widening`.
    """
    window = (head_params[:, 0] + widening.long() * widening_keys(kv_len) // WIDENING_KEYS).clamp(
        max=UNBOUNDED
    )
    return torch.stack([window.to(torch.int32), head_params[:, 1]], dim=1)


class Widened:
    """The parameters of calls, the same tensor for each step of their length: kernels know parameters as tensors."""

    def __init__(self) -> None:
        self._known = Known(_found)
        self._captured: list[torch.Tensor] = []

    def of(self, head_params: torch.Tensor, widening: torch.Tensor, kv_len: int) -> torch.Tensor:
        """Return what `widened` does.

        Raises:
            KernelError: a CUDA graph is being captured, and they were not asked for before.
        """
        numbers = (widening_keys(kv_len),)
        if not (head_params.is_cuda and torch.cuda.is_current_stream_capturing()):
            return self._known(head_params, widening, numbers=numbers)
        known = self._known.recall(head_params, widening, numbers=numbers)
        if known is None:
            raise KernelError("attention: call a node once at this length before a CUDA graph captures it")
        if not any(known is each for each in self._captured):
            self._captured.append(known)  # The graph addresses it for as long as it lives.
        return known


def _found(head_params: torch.Tensor, widening: torch.Tensor, kv_len: int) -> torch.Tensor:
    found = widened(head_params, widening, kv_len)
    if found.is_cuda:
        torch.cuda.current_stream(found.device).synchronize()  # Other streams read it.
    return found
