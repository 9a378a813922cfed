"""From a built library to the callable that the attention operator runs."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from struct import Struct

import torch

from hcompile.codegen.tvm_cpu.far_field import load_far_fields
from hcompile.codegen.tvm_cpu.route import load_router
from hcompile.errors import EnvironmentFault, KernelError
from hcompile.far_field import FarFields, check_far_fields, far_rows
from hcompile.known import Known
from hcompile.lists import list_rules
from hcompile.operator import Kernel, empty_output
from hcompile.patterns.blocks import LIST_QUERIES
from hcompile.patterns.linear import FEATURES

_MAPS = Path("/proc/self/maps")
_DTYPES = {2: torch.bfloat16, 4: torch.float32}
# The fields of `Call` in launcher.c: pointers, sizes, strides, and the scale.
_CALL = Struct("9q 9q 3q 3q 3q 3q q 2q d")


def load_kernel(path: Path) -> Kernel:
    """Return the kernel in a library that `build_kernel` made.

    The kernel runs on torch's OpenMP threads, as many as `torch.get_num_threads()` says when it is called, and may be
    called from several threads at once.

    Raises:
        KernelError: the file cannot be loaded, or is no kernel.
    """
    try:
        library = ctypes.CDLL(str(path), mode=os.RTLD_NOW)
        run = library.hc_attention
        head_dim, element, pair = (
            ctypes.c_int.in_dll(library, name).value for name in ("hc_head_dim", "hc_element", "hc_pair")
        )
    except (OSError, AttributeError, ValueError) as error:
        raise KernelError(
            f"{path}: no kernel can be loaded from it ({error}); delete it, it is built again"
        ) from error
    run.argtypes = [ctypes.c_char_p]
    dtype, pack, parallel = _DTYPES[element], _CALL.pack, openmp_parallel()
    route, add_far_fields = load_router(library, parallel), load_far_fields(library, parallel)
    rules_of = Known(lambda params: torch.tensor(list_rules(params), dtype=torch.int32))

    def kernel(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        key_mask: torch.Tensor | None,
        head_params: torch.Tensor,
        q_offset: int,
        scale: float,
        causal: bool,
        block_count: torch.Tensor | None = None,
        block_index: torch.Tensor | None = None,
        far: FarFields | None = None,
    ) -> torch.Tensor:
        batch, q_heads, q_len, size = q.shape
        if size != head_dim or q.dtype is not dtype or k.dtype is not dtype or v.dtype is not dtype:
            raise KernelError(
                f"a kernel for {dtype} heads of {head_dim} was called with {q.dtype} {tuple(q.shape)}"
            )
        _, kv_heads, kv_len, _ = k.shape
        # The kernel reads as far as these sizes say, whatever the tensors hold.
        if (
            k.shape != (batch, kv_heads, kv_len, size)
            or v.shape != k.shape
            or not kv_heads
            or q_heads % kv_heads
        ):
            raise KernelError(
                f"attention: k {tuple(k.shape)} and v {tuple(v.shape)} do not fit q {tuple(q.shape)}"
            )
        if head_params.shape != (q_heads, 2) or (key_mask is not None and key_mask.shape != (batch, kv_len)):
            mask = None if key_mask is None else tuple(key_mask.shape)
            raise KernelError(
                f"attention: head_params {tuple(head_params.shape)} or key_mask {mask} does not fit q {tuple(q.shape)} "
                f"and k {tuple(k.shape)}"
            )
        rules, room, lists = rules_of(head_params), 0, (0, 0)
        list_heads = len(rules)
        if list_heads:
            if block_count is None or block_index is None:
                block_count, block_index = route(q, k, key_mask, rules, q_offset, scale, causal)
            block_count, block_index = block_count.contiguous(), block_index.contiguous()
            _check_lists(block_count, block_index, (batch, list_heads, -(-q_len // LIST_QUERIES)))
            room, lists = block_index.shape[3], (block_count.data_ptr(), block_index.data_ptr())
        q, k, v = _rows(q, pair), _rows(k, pair), _rows(v, 1)
        head_params = head_params.contiguous()
        mask_pointer = mask_stride = 0
        if key_mask is not None:
            key_mask = key_mask.contiguous()
            mask_pointer, mask_stride = key_mask.data_ptr(), key_mask.stride(0)
        out = empty_output(q)
        adding: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        if far is not None:
            check_far_fields(far, q, causal, FEATURES)
            rows = far_rows(head_params, far)
            if len(rows):
                adding = torch.empty((batch, q_heads, q_len), dtype=torch.float32), far.maps, rows
        call = pack(
            *(q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), mask_pointer, head_params.data_ptr()),
            *lists,
            0 if adding is None else adding[0].data_ptr(),
            *(
                batch,
                q_heads,
                kv_heads,
                q_len,
                kv_len,
                q_offset,
                causal,
                torch.get_num_threads(),
                parallel,
            ),
            *(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3], mask_stride),
            list_heads,
            room,
            scale,
        )
        if run(call):
            raise EnvironmentFault(
                f"attention over {tuple(q.shape)}: no memory for scratch; free some memory"
            )
        if adding is not None:
            log_sums, maps, rows = adding
            add_far_fields(out, log_sums, q, k, v, key_mask, maps, rows, q_offset)
        return out

    return kernel


def _check_lists(block_count: torch.Tensor, block_index: torch.Tensor, shape: tuple[int, int, int]) -> None:
    """Check what the kernel reads by pointers; what the lists hold is the caller's word."""
    if (
        block_count.shape != shape
        or block_index.shape[:3] != shape
        or block_count.dtype != torch.int32
        or block_index.dtype != torch.int32
    ):
        raise KernelError(
            f"attention: block_count {tuple(block_count.shape)} of {block_count.dtype} and block_index "
            f"{tuple(block_index.shape)} of {block_index.dtype} are no lists of int32 {list(shape)}"
        )


def _rows(tensor: torch.Tensor, word: int) -> torch.Tensor:
    """Return the tensor `[B, H, S, D]` with rows that the kernel can read: dense, and whole words apart."""
    strides = tensor.stride()
    return tensor if strides[3] == 1 and strides[2] % word == 0 else tensor.contiguous()


@cache
def openmp_parallel() -> int:
    """Return the address of `GOMP_parallel` in the OpenMP runtime that torch uses; 0 when there is none.

    A second pool of threads would fight torch's for the cores. Both GNU's and LLVM's runtime have this entry.
    """
    lines = _MAPS.read_text().splitlines() if _MAPS.exists() else []
    mapped = {line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6}
    runtimes = [
        path for path in sorted(mapped) if Path(path).name.startswith(("libgomp", "libiomp5", "libomp"))
    ]
    # Other packages bring runtimes of their own: torch's stands in its folder.
    runtimes.sort(key=lambda path: Path(torch.__file__).parent not in Path(path).parents)
    for path in runtimes:
        entry = getattr(ctypes.CDLL(path), "GOMP_parallel", None)
        if entry is not None:
            return ctypes.cast(entry, ctypes.c_void_p).value or 0
    return 0
