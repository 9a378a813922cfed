"""The attention operator of the house, `torch.ops.hcompile.attention`, for prefill and decode, CPU and GPU.

    attention(q, k, v, key_mask, head_params, block_count, block_index, q_offset, scale, causal, binding, maps,
              far_heads, widening) -> out

    q            [B, Hq, Sq, D], any strides with D contiguous (memory is mostly [B, S, H, D])
    k, v         [B, Hkv, Sk, D], Hkv divides Hq; query head h reads KV head h // (Hq // Hkv)
    key_mask     bool [B, Sk], True for valid keys, or None
    head_params  int32 [Hq, 2]: (window, sinks) of each query head
    block_count  int32 [B, R, ceil(Sq / 128)] and int32 [B, R, ceil(Sq / 128), C], the lists of the R heads with the
    block_index  window 0, see `hcompile.lists`. None for both lets the kernel choose them (`hcompile.routing`): sinks
                 is then the share of its attention that such a head reads, in thousandths
    q_offset     absolute position of the first query
    binding      key into the table of bound kernels; "" computes the reference
    maps         [Hq, 2, F, D + 1] and bool [Hq], for the heads that see what is outside their window through learned
    far_heads    features, see `hcompile.far_field`; None for both where there are none
    widening     int32 [Hq], what windows gain with the number of keys, see `hcompile.widening`; None for nothing
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
from hcompile.far_field import FarFields
from hcompile.patterns.blocks import LIST_QUERIES
from hcompile.reference import attention_reference
from hcompile.routing import route
from hcompile.widening import Widened, widened

SCHEMA = (
    "(Tensor q, Tensor k, Tensor v, Tensor? key_mask, Tensor head_params, Tensor? block_count, "
    "Tensor? block_index, SymInt q_offset, float scale, bool causal, str binding, Tensor? maps=None, "
    "Tensor? far_heads=None, Tensor? widening=None) -> Tensor"
)
_GRADIENT_ROWS = 1024

_library = torch.library.Library("hcompile", "DEF")
for _name in ("attention", "bound_attention"):
    _library.define(_name + SCHEMA, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order))
# An operator of its own, so that a traced gradient does not look at what the parameters hold.
_library.define(
    "attention_gradient(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? key_mask, Tensor head_params, "
    "Tensor? block_count, Tensor? block_index, SymInt q_offset, float scale, bool causal, Tensor? maps, "
    "Tensor? far_heads) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order),
)


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
        block_count: torch.Tensor | None = None,
        block_index: torch.Tensor | None = None,
        far: FarFields | None = None,
    ) -> torch.Tensor: ...


def empty_output(q: torch.Tensor) -> torch.Tensor:
    """Return the memory of an output `[B, H, S, D]` for these queries, which lies as `[B, S, H, D]`."""
    batch, heads, length, head_dim = q.shape
    return q.new_empty_strided(
        (batch, heads, length, head_dim), (length * heads * head_dim, head_dim, heads * head_dim, 1)
    )


def refuse_lists(block_count: torch.Tensor | None) -> None:
    """Raise KernelError where a call has lists: for kernels that read none."""
    if block_count is not None:
        raise KernelError("attention: this kernel reads no lists of key blocks: leave the node unbound")


def chosen_by(choose: Callable[[torch.Tensor], Kernel]) -> Kernel:
    """Return a kernel that runs the one that `choose` names for the queries of a call."""

    def run(q: torch.Tensor, *others: Any, **named: Any) -> torch.Tensor:
        return choose(q)(q, *others, **named)

    return run


_kernels: dict[str, Kernel] = {"": attention_reference}
_widened = Widened()


def bind(binding: str, kernel: Kernel) -> None:
    """Bind `kernel` under a key that names its content, so that binding the same content twice changes nothing."""
    _kernels.setdefault(binding, kernel)


def _attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    key_mask: torch.Tensor | None,
    head_params: torch.Tensor,
    block_count: torch.Tensor | None,
    block_index: torch.Tensor | None,
    q_offset: int,
    scale: float,
    causal: bool,
    binding: str,
    maps: torch.Tensor | None = None,
    far_heads: torch.Tensor | None = None,
    widening: torch.Tensor | None = None,
) -> torch.Tensor:
    kernel = _kernels.get(binding)
    if kernel is None:
        raise KernelError(
            f"no kernel is bound as {binding!r} in this process: load the artifact with hcompile.load"
        )
    if widening is not None:
        head_params = _widened.of(head_params, widening, k.shape[2])
    far = _far_fields(maps, far_heads)
    if block_count is None and far is None:
        return kernel(q, k, v, key_mask, head_params, q_offset, scale, causal)
    return kernel(q, k, v, key_mask, head_params, q_offset, scale, causal, block_count, block_index, far)


def _far_fields(maps: torch.Tensor | None, far_heads: torch.Tensor | None) -> FarFields | None:
    return None if maps is None or far_heads is None else FarFields(maps, far_heads)


def _attention_fake(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    key_mask: torch.Tensor | None,
    head_params: torch.Tensor,
    block_count: torch.Tensor | None,
    block_index: torch.Tensor | None,
    q_offset: int,
    scale: float,
    causal: bool,
    binding: str,
    maps: torch.Tensor | None = None,
    far_heads: torch.Tensor | None = None,
    widening: torch.Tensor | None = None,
) -> torch.Tensor:
    _check_arguments(q, k, v, key_mask, head_params)
    _check_lists(q, block_count, block_index)
    _check_far_fields(q, maps, far_heads, causal)
    if widening is not None:
        torch._check(
            widening.dtype == torch.int32 and widening.shape == (q.shape[1],),
            lambda: (
                f"attention: widening is {widening.dtype} {tuple(widening.shape)}, wanted int32 [{q.shape[1]}]"
            ),
        )
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


def _check_lists(q: torch.Tensor, block_count: torch.Tensor | None, block_index: torch.Tensor | None) -> None:
    if block_count is None or block_index is None:
        torch._check(
            block_count is block_index, lambda: "attention: give both of block_count and block_index, or none"
        )
        return
    torch._check(
        block_count.dtype == block_index.dtype == torch.int32,
        lambda: (
            f"attention: block_count, block_index are {block_count.dtype}, {block_index.dtype}: wanted int32"
        ),
    )
    lists = (q.shape[0], (q.shape[2] + LIST_QUERIES - 1) // LIST_QUERIES)
    torch._check(
        block_count.dim() == 3
        and (block_count.shape[0], block_count.shape[2]) == lists
        and block_index.dim() == 4
        and block_index.shape[:3] == block_count.shape,
        lambda: (
            f"attention: block_count {tuple(block_count.shape)} and block_index {tuple(block_index.shape)}, wanted "
            f"[{lists[0]}, R, {lists[1]}] and the same with entries"
        ),
    )


def _check_far_fields(
    q: torch.Tensor, maps: torch.Tensor | None, far_heads: torch.Tensor | None, causal: bool
) -> None:
    if maps is None or far_heads is None:
        torch._check(maps is far_heads, lambda: "attention: give both of maps and far_heads, or none")
        return
    heads, head_dim = q.shape[1], q.shape[3]
    torch._check(causal, lambda: "attention: far fields are of causal attention")
    torch._check(
        maps.dim() == 4 and maps.shape[:2] == (heads, 2) and maps.shape[3] == head_dim + 1,
        lambda: f"attention: maps are {tuple(maps.shape)}, wanted [{heads}, 2, F, {head_dim + 1}]",
    )
    torch._check(
        far_heads.dtype == torch.bool and far_heads.shape == (heads,),
        lambda: f"attention: far_heads is {far_heads.dtype} {tuple(far_heads.shape)}, wanted bool [{heads}]",
    )


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    q, k, v, key_mask, head_params, *lists, q_offset, scale, causal, _, maps, far_heads, widening = inputs
    if widening is not None:
        head_params = widened(head_params, widening, k.shape[2])
    tensors = q, k, v, key_mask, head_params, *lists
    ctx.save_for_backward(*tensors, maps, far_heads)
    ctx.call = (q_offset, scale, causal)


def _gradient(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    *tensors, maps, far_heads = ctx.saved_tensors
    gradients = torch.ops.hcompile.attention_gradient(grad, *tensors, *ctx.call, maps, far_heads)
    return *gradients, *(None,) * 11


def _attention_gradient(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    key_mask: torch.Tensor | None,
    head_params: torch.Tensor,
    block_count: torch.Tensor | None,
    block_index: torch.Tensor | None,
    q_offset: int,
    scale: float,
    causal: bool,
    maps: torch.Tensor | None,
    far_heads: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Recompute the reference in slices of query rows, so that no [Sq, Sk] matrix of a whole head is kept."""
    if block_count is None or block_index is None:
        lists = route(q, k, key_mask, head_params, q_offset, scale, causal)
        block_count, block_index = (None, None) if lists is None else lists
    far = _far_fields(maps, far_heads)
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
                *(block_count, block_index, far),
                first_row=first,
            )
        slice_q, slice_k, slice_v = torch.autograd.grad(out, (queries, keys, values), grad[:, :, rows])
        grad_q[:, :, rows] = slice_q
        grad_k += slice_k
        grad_v += slice_v
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


def _gradient_fake(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


for _name, _computed, _fake in (
    ("attention", _attention, _attention_fake),
    ("bound_attention", _attention, _attention_fake),
    ("attention_gradient", _attention_gradient, _gradient_fake),
):
    _library.impl(_name, _computed, "CompositeExplicitAutograd")
    torch.library.register_fake(f"hcompile::{_name}", _fake, lib=_library)
torch.library.register_autograd("hcompile::attention", _gradient, setup_context=_keep_inputs, lib=_library)

attention = torch.ops.hcompile.attention.default
bound_attention = torch.ops.hcompile.bound_attention.default
