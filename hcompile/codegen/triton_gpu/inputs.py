"""What every launcher does with the tensors of a call, and what it asks the device."""

from __future__ import annotations

from functools import cache

import torch

from hcompile.codegen.triton_gpu.kernels.valid_range import BLOCK, valid_range
from hcompile.codegen.triton_gpu.launch import Launcher, current_stream
from hcompile.errors import KernelError
from hcompile.schedules.templates.gpu_tiles import LARGEST_HEAD_DIM

LOG2_E = 1.4426950408889634
_POOL = 1 << 18
"""Counters for captured calls, 1 MiB."""

_ranges = Launcher(valid_range)


def valid_ranges(key_mask: torch.Tensor) -> torch.Tensor:
    """Return, for each row of a dense mask `[B, Sk]`, its first valid key, the end of the valid ones, and whether some
    between are not: int32 `[B, 3]`. A row without a valid key is empty."""
    rows, length = key_mask.shape
    valid = key_mask.new_empty((rows, 3), dtype=torch.int32)
    facts = rows, length, key_mask.device
    call = _ranges.ready(facts)
    if call is None:
        call = _ranges.prepare(facts, key_mask, (rows, 1), (length,), None, (), (BLOCK,))
    _ranges(call, (), (), (key_mask, valid))
    return valid


def masked(head_params: torch.Tensor, key_mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the valid ranges and the mask that a kernel reads, some tensor in their place where there is no mask."""
    if key_mask is None:
        return head_params, head_params
    key_mask = key_mask.contiguous()
    return valid_ranges(key_mask), key_mask


def facts_of(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, key_mask: torch.Tensor | None
) -> tuple[object, ...]:
    """Return what `check_call` and a launch depend on, but for addresses, as a key: calls with one need one check."""
    mask = None if key_mask is None else (key_mask.shape, key_mask.dtype, key_mask.device)
    return (
        *(q.shape, q.stride(), q.dtype, q.device),
        *(k.shape, k.stride(), k.dtype, k.device),
        *(v.shape, v.stride(), v.dtype, v.device),
        mask,
    )


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
    q_shape, k_shape = q.shape, k.shape  # Each look makes a new one: this runs at every call.
    if len(q_shape) != 4 or len(k_shape) != 4 or v.shape != k_shape or k_shape[3] != q_shape[3]:
        raise KernelError(f"attention: k {tuple(k_shape)}, v {tuple(v.shape)} do not fit q {tuple(q_shape)}")
    batch, q_heads, _, head_dim = q_shape
    k_batch, kv_heads, kv_len, _ = k_shape
    if paged_len is not None:
        kv_len = paged_len
    elif k_batch != batch:
        raise KernelError(f"attention: k {tuple(k_shape)} does not fit q {tuple(q_shape)}: the batch differs")
    if not kv_heads or q_heads % kv_heads:
        raise KernelError(f"attention: {q_heads} query heads are no multiple of {kv_heads} KV heads")
    if head_dim > LARGEST_HEAD_DIM or head_dim % 8:
        raise KernelError(f"attention: heads of {head_dim}: wanted a multiple of 8 up to {LARGEST_HEAD_DIM}")
    dtype, device = q.dtype, q.device
    if k.dtype != dtype or v.dtype != dtype:
        raise KernelError(f"attention: q, k, v are {dtype}, {k.dtype}, {v.dtype}: wanted one dtype")
    check_params(head_params, q_heads)
    if key_mask is not None and (key_mask.shape != (batch, kv_len) or key_mask.dtype != torch.bool):
        raise KernelError(
            f"attention: key_mask is {key_mask.dtype} {tuple(key_mask.shape)}, wanted bool [{batch}, {kv_len}]"
        )
    same = k.device == device and v.device == device and head_params.device == device
    if not same or (key_mask is not None and key_mask.device != device):
        raise KernelError(f"attention: q is on {device}, and other tensors are not: move all to one device")
    if scale <= 0:
        raise KernelError(f"attention: scale is {scale}, wanted above 0")


def check_params(head_params: torch.Tensor, q_heads: int) -> None:
    """Raises: KernelError when they are none of so many heads."""
    if head_params.shape != (q_heads, 2) or head_params.dtype != torch.int32:
        raise KernelError(
            f"attention: head_params is {head_params.dtype} {tuple(head_params.shape)}, wanted int32 [{q_heads}, 2]"
        )


def dense_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor with elements of a head side by side."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor with rows that the copy engine can read: dense, apart, starting at multiples of 16 bytes."""
    batch, head, row, element = tensor.stride()
    whole = not (tensor.data_ptr() | (batch | head | row) * tensor.element_size()) & 15
    if whole and not (batch and head and row):
        # Of a dimension of one the stride does not matter; of others it must set elements apart.
        whole = all(
            stride or length == 1 for stride, length in zip(tensor.stride(), tensor.shape, strict=True)
        )
    return tensor if element == 1 and whole else tensor.clone(memory_format=torch.contiguous_format)


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
        self._of_streams: dict[tuple[int, int], torch.Tensor] = {}
        self._pools: dict[int, torch.Tensor] = {}

    def of(self, tensor: torch.Tensor, count: int) -> torch.Tensor:
        """Return at least `count` int32 zeros for a call on the current stream of a tensor's device."""
        index = tensor.get_device()
        if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
            pool = self._pools.get(index)
            if pool is None or pool.numel() < count:
                # Cleared at each replay.
                return torch.zeros(count, dtype=torch.int32, device=tensor.device)
            self._pools[index] = pool[count:]
            return pool[:count]
        stream = current_stream(index) if tensor.is_cuda else 0
        found = self._of_streams.get((index, stream))
        if found is None or found.numel() < count:
            device = tensor.device
            if tensor.is_cuda and index not in self._pools:
                self._pools[index] = torch.zeros(_POOL, dtype=torch.int32, device=device)
                torch.cuda.current_stream(device).synchronize()  # Other streams read them.
            found = torch.zeros(count, dtype=torch.int32, device=device)
            self._of_streams[(index, stream)] = found
        return found
