"""What every launcher does with the tensors of a call, and what it asks the device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

from hcompile.errors import KernelError
from hcompile.schedules.templates.gpu_tiles import LARGEST_HEAD_DIM

LOG2_E = 1.4426950408889634
_POOL = 1 << 18
"""Counters for captured calls, 1 MiB."""


def valid_ranges(key_mask: torch.Tensor) -> torch.Tensor:
    """Return, for each row of a mask `[B, Sk]`, its first valid key, the end of the valid ones, and whether some
    between are not: int32 `[B, 3]`. A row without a valid key is empty."""
    length = key_mask.shape[1]
    valid = key_mask.to(torch.uint8)
    count = valid.sum(1, dtype=torch.int32)
    first = valid.argmax(1).to(torch.int32)
    end = (length - valid.flip(1).argmax(1)).to(torch.int32)
    end = torch.where(count > 0, end, first)
    return torch.stack((first, end, (end - first != count).to(torch.int32)), dim=1)


def masked(head_params: torch.Tensor, key_mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the valid ranges and the mask that a kernel reads, some tensor in their place where there is no mask."""
    if key_mask is None:
        return head_params, head_params
    return valid_ranges(key_mask), key_mask.contiguous()


def check_call(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    key_mask: torch.Tensor | None,
    head_params: torch.Tensor,
    scale: float,
    paged_len: int | None = None,
) -> None:
    """Check what a kernel reads by: it reads as far as these sizes say, whatever the tensors hold.

    Args:
        paged_len: keys of a sequence, where `k` and `v` are pages; None where they are a cache `[B, Hkv, S, D]`.

    Raises:
        KernelError: the tensors do not fit each other, or no kernel computes this.
    """
    if q.dim() != 4 or k.dim() != 4 or v.shape != k.shape or k.shape[3] != q.shape[3]:
        raise KernelError(f"attention: k {tuple(k.shape)}, v {tuple(v.shape)} do not fit q {tuple(q.shape)}")
    if paged_len is None and k.shape[0] != q.shape[0]:
        raise KernelError(f"attention: k {tuple(k.shape)} does not fit q {tuple(q.shape)}: the batch differs")
    kv_len = k.shape[2] if paged_len is None else paged_len
    if not k.shape[1] or q.shape[1] % k.shape[1]:
        raise KernelError(f"attention: {q.shape[1]} query heads are no multiple of {k.shape[1]} KV heads")
    if q.shape[3] > LARGEST_HEAD_DIM or q.shape[3] % 8:
        raise KernelError(
            f"attention: heads of {q.shape[3]}: wanted a multiple of 8 up to {LARGEST_HEAD_DIM}"
        )
    if q.dtype != k.dtype or q.dtype != v.dtype:
        raise KernelError(f"attention: q, k, v are {q.dtype}, {k.dtype}, {v.dtype}: wanted one dtype")
    if head_params.shape != (q.shape[1], 2) or head_params.dtype != torch.int32:
        raise KernelError(
            f"attention: head_params is {head_params.dtype} {tuple(head_params.shape)}, wanted int32 [{q.shape[1]}, 2]"
        )
    if key_mask is not None and (key_mask.shape != (q.shape[0], kv_len) or key_mask.dtype != torch.bool):
        raise KernelError(
            f"attention: key_mask is {key_mask.dtype} {tuple(key_mask.shape)}, wanted bool [{q.shape[0]}, {kv_len}]"
        )
    others = (k, v, head_params) if key_mask is None else (k, v, head_params, key_mask)
    if any(tensor.device != q.device for tensor in others):
        raise KernelError(f"attention: q is on {q.device}, and other tensors are not: move all to one device")
    if scale <= 0:
        raise KernelError(f"attention: scale is {scale}, wanted above 0")


def on_device_of(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Return a context in which Triton launches where the tensor is."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def dense_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor with elements of a head side by side."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor with rows that the copy engine can read: dense, apart, starting at multiples of 16 bytes."""
    size = tensor.element_size()
    whole = tensor.data_ptr() % 16 == 0 and all(
        stride * size % 16 == 0 and (stride > 0 or length == 1)
        for stride, length in zip(tensor.stride()[:-1], tensor.shape[:-1], strict=True)
    )
    return tensor if tensor.stride(3) == 1 and whole else tensor.clone(memory_format=torch.contiguous_format)


@cache
def multiprocessors(device: int) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


@cache
def cache_bytes(device: int) -> int:
    """Return the size of the cache that all multiprocessors share."""
    return torch.cuda.get_device_properties(device).L2_cache_size


class Counters:
    """Zeros that every call leaves as zeros.

    Calls on one stream share some, as they run in turn. A call that a CUDA graph captures has some of its own, since
    the graph may run on any stream, beside others; they come from a pool, so that the graph need not clear them.
    """

    def __init__(self) -> None:
        self._of_streams: dict[tuple[torch.device, int], torch.Tensor] = {}
        self._pools: dict[torch.device, torch.Tensor] = {}

    def of(self, device: torch.device, count: int) -> torch.Tensor:
        """Return at least `count` int32 zeros for a call on the current stream of a device."""
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            pool = self._pools.get(device)
            if pool is None or pool.numel() < count:
                return torch.zeros(count, dtype=torch.int32, device=device)  # Cleared at each replay.
            self._pools[device] = pool[count:]
            return pool[:count]
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        found = self._of_streams.get((device, stream))
        if found is None or found.numel() < count:
            if device.type == "cuda" and device not in self._pools:
                self._pools[device] = torch.zeros(_POOL, dtype=torch.int32, device=device)
                torch.cuda.current_stream(device).synchronize()  # Other streams read them.
            found = torch.zeros(count, dtype=torch.int32, device=device)
            self._of_streams[(device, stream)] = found
        return found
