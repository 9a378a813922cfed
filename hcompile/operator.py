"""The attention operator of the house, `torch.ops.hcompile.attention`, for prefill and decode, CPU and GPU.

    attention(q, k, v, key_mask, head_params, block_ptr, block_index, q_offset, scale, causal, binding) -> out

    q            [B, Hq, Sq, D], any strides with D contiguous (memory is mostly [B, S, H, D])
    k, v         [B, Hkv, Sk, D], Hkv divides Hq; query head h reads KV head h // (Hq // Hkv)
    key_mask     bool [B, Sk], True for valid keys, or None
    head_params  int32 [Hq, 2]: (window, sinks) of each query head
    block_ptr    int32 [B * Hq * ceil(Sq / 128) + 1], where in block_index the list of each 128 queries begins; None
                 where no head reads lists. A head with the window 0 sees what its lists name
    block_index  int32 [entries], 4 * (block of 64 keys), + 1 where the first 64 of the queries see it, + 2 where the
                 last 64 do; an entry a block at most
    q_offset     absolute position of the first query
    binding      key into the table of bound kernels; "" computes the reference
    out          [B, Hq, Sq, D] in the dtype of q, memory [B, Sq, Hq, D]

What a query sees is defined in `hcompile.patterns.base`. A node's kernel is bound once, when a module is lowered;
a call looks it up by its binding and does nothing else.

Lowered graphs call `torch.ops.hcompile.bound_attention`, the same without gradients: a call of an operator with a
gradient in Python goes through torch's dispatcher and Python twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from hcompile.errors import KernelError
from hcompile.reference import LIST_QUERIES, attention_reference

SCHEMA = (
    "(Tensor q, Tensor k, Tensor v, Tensor? key_mask, Tensor head_params, Tensor? block_ptr, "
    "Tensor? block_index, SymInt q_offset, float scale, bool causal, str binding) -> Tensor"
)
_GRADIENT_ROWS = 1024

_library = torch.library.Library("hcompile", "DEF")
for _name in ("attention", "bound_attention"):
    _library.define(_name + SCHEMA, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order))


class Kernel(Protocol):
    """A bound kernel: what a backend's `load` returns. Raises KernelError where it reads no lists and is given some."""

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        key_mask: torch.Tensor | None,
        head_params: torch.Tensor,
        q_offset: int,
        scale: float,
        causal: bool,
        block_ptr: torch.Tensor | None = None,
        block_index: torch.Tensor | None = None,
    ) -> torch.Tensor: ...


def empty_output(q: torch.Tensor) -> torch.Tensor:
    """Return the memory of an output `[B, H, S, D]` for these queries, which lies as `[B, S, H, D]`."""
    batch, heads, length, head_dim = q.shape
    return q.new_empty_strided(
        (batch, heads, length, head_dim), (length * heads * head_dim, head_dim, heads * head_dim, 1)
    )


def refuse_lists(block_ptr: torch.Tensor | None) -> None:
    """Raise KernelError where a call has lists: for kernels that read none."""
    if block_ptr is not None:
        raise KernelError("attention: this kernel reads no lists of key blocks: leave the node unbound")


def chosen_by(choose: Callable[[torch.Tensor], Kernel]) -> Kernel:
    """Return a kernel that runs the one that `choose` names for the queries of a call."""

    def run(q: torch.Tensor, *others: Any, **named: Any) -> torch.Tensor:
        return choose(q)(q, *others, **named)

    return run


_kernels: dict[str, Kernel] = {"": attention_reference}


def bind(binding: str, kernel: Kernel) -> None:
    """Bind `kernel` under a key that names its content, so that binding the same content twice changes nothing."""
    _kernels.setdefault(binding, kernel)


def _attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    key_mask: torch.Tensor | None,
    head_params: torch.Tensor,
    block_ptr: torch.Tensor | None,
    block_index: torch.Tensor | None,
    q_offset: int,
    scale: float,
    causal: bool,
    binding: str,
) -> torch.Tensor:
    kernel = _kernels.get(binding)
    if kernel is None:
        raise KernelError(
            f"no kernel is bound as {binding!r} in this process: load the artifact with hcompile.load"
        )
    if block_ptr is None:
        return kernel(q, k, v, key_mask, head_params, q_offset, scale, causal)
    return kernel(q, k, v, key_mask, head_params, q_offset, scale, causal, block_ptr, block_index)


def _attention_fake(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    key_mask: torch.Tensor | None,
    head_params: torch.Tensor,
    block_ptr: torch.Tensor | None,
    block_index: torch.Tensor | None,
    q_offset: int,
    scale: float,
    causal: bool,
    binding: str,
) -> torch.Tensor:
    _check_arguments(q, k, v, key_mask, head_params)
    _check_lists(q, block_ptr, block_index)
    return empty_output(q)


def _check_arguments(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    key_mask: torch.Tensor | None,
    head_params: torch.Tensor,
) -> None:
    """Check what kernels rely on. It runs when a graph is traced, so that a call pays nothing for it."""
    torch._check(
        q.dim() == k.dim() == v.dim() == 4, lambda: "attention: q, k and v want four dimensions [B, H, S, D]"
    )
    torch._check(
        q.dtype == k.dtype == v.dtype, lambda: f"attention: q, k, v are {q.dtype}, {k.dtype}, {v.dtype}"
    )
    (batch, heads, _, head_dim), (_, kv_heads, kv_len, _) = q.shape, k.shape
    torch._check(
        tuple(k.shape) == tuple(v.shape) == (batch, kv_heads, kv_len, head_dim),
        lambda: f"attention: k {tuple(k.shape)} and v {tuple(v.shape)} do not fit q {tuple(q.shape)}",
    )
    torch._check(
        heads % kv_heads == 0,
        lambda: f"attention: {heads} query heads are no multiple of {kv_heads} KV heads",
    )
    torch._check(
        head_params.dtype == torch.int32 and head_params.shape == (heads, 2),
        lambda: (
            f"attention: head_params is {head_params.dtype} {tuple(head_params.shape)}, wanted int32 [{heads}, 2]"
        ),
    )
    if key_mask is not None:
        torch._check(
            key_mask.dtype == torch.bool and tuple(key_mask.shape) == (batch, kv_len),
            lambda: (
                f"attention: key_mask is {key_mask.dtype} {tuple(key_mask.shape)}, wanted bool [{batch}, {kv_len}]"
            ),
        )


def _check_lists(q: torch.Tensor, block_ptr: torch.Tensor | None, block_index: torch.Tensor | None) -> None:
    if block_ptr is None or block_index is None:
        torch._check(
            block_ptr is block_index, lambda: "attention: give both of block_ptr and block_index, or none"
        )
        return
    torch._check(
        block_ptr.dtype == block_index.dtype == torch.int32,
        lambda: f"attention: block_ptr, block_index are {block_ptr.dtype}, {block_index.dtype}: wanted int32",
    )
    lists = q.shape[0] * q.shape[1] * ((q.shape[2] + LIST_QUERIES - 1) // LIST_QUERIES)
    torch._check(
        block_ptr.dim() == block_index.dim() == 1 and block_ptr.shape[0] == lists + 1,
        lambda: f"attention: block_ptr is {tuple(block_ptr.shape)}, wanted [{lists + 1}]",
    )


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    q, k, v, key_mask, head_params, block_ptr, block_index, q_offset, scale, causal, _ = inputs
    ctx.save_for_backward(q, k, v, key_mask, head_params, block_ptr, block_index)
    ctx.call = (q_offset, scale, causal)


def _gradient(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """Recompute the reference in slices of query rows, so that no [Sq, Sk] matrix of a whole head is kept."""
    q, k, v, key_mask, head_params, block_ptr, block_index = ctx.saved_tensors
    q_offset, scale, causal = ctx.call
    keys, values = k.detach().requires_grad_(), v.detach().requires_grad_()
    # Slices add up in float32 at least, whatever the dtype of the keys.
    wide = torch.promote_types(k.dtype, torch.float32)
    grad_q, grad_k, grad_v = (
        torch.empty_like(q),
        torch.zeros_like(k, dtype=wide),
        torch.zeros_like(v, dtype=wide),
    )
    for first in range(0, q.shape[2], _GRADIENT_ROWS):
        rows = slice(first, min(q.shape[2], first + _GRADIENT_ROWS))
        with torch.enable_grad():
            queries = q[:, :, rows].detach().requires_grad_()
            out = attention_reference(
                *(queries, keys, values, key_mask, head_params, q_offset + first, scale, causal),
                *(block_ptr, block_index),
                first_row=first,
            )
        slice_q, slice_k, slice_v = torch.autograd.grad(out, (queries, keys, values), grad[:, :, rows])
        grad_q[:, :, rows] = slice_q
        grad_k += slice_k
        grad_v += slice_v
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), *(None,) * 8


for _name in ("attention", "bound_attention"):
    _library.impl(_name, _attention, "CompositeExplicitAutograd")
    torch.library.register_fake(f"hcompile::{_name}", _attention_fake, lib=_library)
torch.library.register_autograd("hcompile::attention", _gradient, setup_context=_keep_inputs, lib=_library)

attention = torch.ops.hcompile.attention.default
bound_attention = torch.ops.hcompile.bound_attention.default
