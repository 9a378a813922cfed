"""The attention implementation that transformers models run with while they are exported.

transformers lets a model's attention and its mask be replaced by name. Ours puts one `hcompile::attention` node into
the graph for every attention that the operator can express, with K and V not repeated and no use of the mask, and runs
transformers' own function, mask and all, for every other one.

A mask is recognised by identity: the mask that our mask function made for the model is understood, anything that the
model has changed in between is not. What it means is read from the rule it was made of, evaluated on positions.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.utils._python_dispatch import _disable_current_modes
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hcompile.operator import attention
from hcompile.passes.mask_meaning import MaskMeaning
from hcompile.values import canonical_json

NAME = "hcompile"
_DENSE_POSITIONS = 64
_RANDOM_POSITIONS = 64

_HARMLESS = frozenset(
    {"position_ids", "cache_position", "sliding_window", "use_cache", "position_embeddings", "logits_to_keep"}
)
"""Arguments of no effect of their own: a sliding window is in the mask, positions are in Q and K."""
_EAGER_ONLY = {"softcap": "logit softcap", "s_aux": "attention sinks that are parameters"}


@dataclass(frozen=True, slots=True)
class _Mask:
    full: torch.Tensor
    meaning: MaskMeaning | None
    key_mask: torch.Tensor | None


@dataclass(slots=True)
class Recording:
    """What one export of a model met. `left` gives the reason for each attention that stays as it was."""

    names: dict[int, str]
    positions: int
    has_sdpa: bool
    masks: list[_Mask] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


_current: ContextVar[Recording] = ContextVar("hcompile_recording")


@contextlib.contextmanager
def recording(model: PreTrainedModel, positions: int) -> Iterator[Recording]:
    """Run `model` through our attention within the context.

    Args:
        positions: the model's longest sequence; what masks mean is proven up to there.
    """
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _make_mask)
    found = Recording(
        {id(module): name for name, module in model.named_modules()}, positions, model._supports_sdpa
    )
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    token = _current.set(found)
    try:
        yield found
    finally:
        _current.reset(token)
        model.set_attn_implementation(before)


def marker_facts(binding: str) -> tuple[str, int | None]:
    """Return the (name, window) that a node carries in its binding until it becomes a site."""
    name, window = json.loads(binding)
    return name, window


def _make_mask(
    *,
    mask_function: Callable[..., Any],
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    **rest: Any,
) -> torch.Tensor:
    found = _current.get()
    rest |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    full: torch.Tensor = sdpa_mask(
        mask_function=mask_function,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        attention_mask=attention_mask,
        local_size=local_size,
        **rest,
    )
    fits = attention_mask is None or statically_known_true(attention_mask.shape[1] == kv_length)
    meaning = None
    if fits and not q_offset and not kv_offset and _is_rule_of_positions(mask_function):
        with _disable_current_modes():
            meaning = _meaning_of(mask_function, local_size, found.positions)
    found.masks.append(_Mask(full, meaning, attention_mask))
    return full


def _is_rule_of_positions(value: Any) -> bool:
    """Whether a mask rule is made of functions and numbers alone, so that its result depends on positions only."""
    if isinstance(value, (tuple, list)):
        return all(_is_rule_of_positions(item) for item in value)
    if isinstance(value, FunctionType):
        return all(_is_rule_of_positions(cell.cell_contents) for cell in value.__closure__ or ())
    return isinstance(value, int)


def _meaning_of(rule: Callable[..., Any], local_size: int | None, positions: int) -> MaskMeaning | None:
    """Return what a rule of positions alone means, compared on rows that hold every place where it could differ."""
    windows = [None] if local_size is None else [local_size, local_size + 1]
    edges = [
        edge for size in (0, *(w for w in windows if w), positions) for edge in range(size - 2, size + 3)
    ]
    spread = torch.randint(
        positions, (_RANDOM_POSITIONS,), generator=torch.Generator().manual_seed(0)
    ).tolist()
    rows = sorted({row for row in (*range(_DENSE_POSITIONS), *edges, *spread) if 0 <= row < positions})
    query = torch.tensor(rows, dtype=torch.int32)[None, None, :, None]
    key = torch.arange(positions, dtype=torch.int32)[None, None, None, :]
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    seen = rule(zero, zero, query, key).expand(1, 1, len(rows), positions)
    for meaning in (MaskMeaning(causal, window) for causal in (True, False) for window in windows):
        if torch.equal(seen, meaning.visible(query, key)):
            return meaning
    return None


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute attention as transformers' interface wants it: q, k, v `[B, H, S, D]`, output `[B, S, H, D]`."""
    found = _current.get()
    name = found.names.get(id(module), type(module).__name__)
    if attention_mask is None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        mask: _Mask | None = _Mask(query, MaskMeaning(bool(causal)), None)
    else:
        mask = next((mask for mask in found.masks if mask.full is attention_mask), None)
    reason = _obstacle(query, key, value, mask, dropout, rest)
    if reason is not None or mask is None or mask.meaning is None:
        found.left[name] = reason or "its mask is not understood"
        return _as_it_was(found, module, query, key, value, attention_mask, scaling, dropout, is_causal, rest)
    meaning = mask.meaning
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    # The node carries what is known of it; its parameters become a named tensor once the export is done.
    facts = canonical_json([name, meaning.window])
    params = torch.empty((query.shape[1], 2), dtype=torch.int32)
    out = attention(query, key, value, mask.key_mask, params, None, None, 0, scale, meaning.causal, facts)
    return out.transpose(1, 2), None


def _obstacle(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: _Mask | None,
    dropout: float,
    rest: dict[str, Any],
) -> str | None:
    """Return why the operator cannot express this attention, or None."""
    for name, argument in rest.items():
        if argument is None or argument is False or name in _HARMLESS:
            continue
        if name in _EAGER_ONLY:
            return f"it has {_EAGER_ONLY[name]}"
        return f"it has a {name.replace('_', ' ')}"
    if dropout:
        return f"it has dropout {dropout}"
    if (
        not query.dim() == key.dim() == value.dim() == 4
        or not query.shape[-1] == key.shape[-1] == value.shape[-1]
    ):
        return "Q, K and V differ in head size"
    if key.shape[1] != value.shape[1] or query.shape[1] % key.shape[1]:
        return "its query heads are no multiple of its KV heads"
    if not statically_known_true(query.shape[2] == key.shape[2]):
        return "its queries and keys differ in length (cross-attention)"
    if mask is None:
        return "the model changed its mask on the way"
    return None


def _as_it_was(
    found: Recording,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None,
    dropout: float,
    is_causal: bool | None,
    rest: dict[str, Any],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if found.has_sdpa and all(rest.get(name) is None for name in _EAGER_ONLY):
        out: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            **rest,
        )
        return out
    eager = sys.modules[type(module).__module__].eager_attention_forward
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        hidden = torch.finfo(query.dtype).min
        attention_mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill(
            ~attention_mask, hidden
        )
    result: tuple[torch.Tensor, torch.Tensor | None] = eager(
        module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **rest
    )
    return result
