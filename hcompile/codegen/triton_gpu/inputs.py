"""What every launcher does with the tensors of a call, and what it asks the device."""

from __future__ import annotations

from functools import cache

import torch

from hcompile.errors import KernelError

LOG2_E = 1.4426950408889634


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


def check_shapes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, head_params: torch.Tensor) -> None:
    """Check what a kernel reads by: it reads as far as these sizes say, whatever the tensors hold.

    Raises:
        KernelError: the tensors do not fit each other.
    """
    (batch, q_heads, _, head_dim), (_, kv_heads, kv_len, _) = q.shape, k.shape
    if k.shape != (batch, kv_heads, kv_len, head_dim) or v.shape != k.shape or q_heads % max(kv_heads, 1):
        raise KernelError(
            f"attention: k {tuple(k.shape)} and v {tuple(v.shape)} do not fit q {tuple(q.shape)}"
        )
    if head_params.shape != (q_heads, 2):
        raise KernelError(
            f"attention: head_params {tuple(head_params.shape)} does not fit q {tuple(q.shape)}"
        )


def empty_output(q: torch.Tensor) -> torch.Tensor:
    """Return an output `[B, H, S, D]` that lies in memory as `[B, S, H, D]`."""
    batch, heads, length, head_dim = q.shape
    return torch.empty((batch, length, heads, head_dim), dtype=q.dtype, device=q.device).transpose(1, 2)


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor with rows that the copy engine can read: dense, and starting at multiples of 16 bytes."""
    size = tensor.element_size()
    whole = all(stride * size % 16 == 0 for stride in tensor.stride()[:-1]) and tensor.data_ptr() % 16 == 0
    return tensor if tensor.stride(3) == 1 and whole else tensor.clone(memory_format=torch.contiguous_format)


@cache
def multiprocessors(device: int) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


@cache
def cache_bytes(device: int) -> int:
    """Return the size of the cache that all multiprocessors share."""
    return torch.cuda.get_device_properties(device).L2_cache_size


class Counters:
    """Zeros that every call leaves as zeros; calls on one stream share them, as they run in turn."""

    def __init__(self) -> None:
        self._known: dict[tuple[torch.device, int], torch.Tensor] = {}

    def of(self, device: torch.device, count: int) -> torch.Tensor:
        """Return at least `count` int32 zeros for calls on the current stream of a device."""
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        found = self._known.get((device, stream))
        if found is None or found.numel() < count:
            found = self._known[(device, stream)] = torch.zeros(count, dtype=torch.int32, device=device)
        return found
