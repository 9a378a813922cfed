"""Which operators a graph from elsewhere may call: those that compute on their tensors and do nothing else."""

from __future__ import annotations

import re

import torch

NAMESPACES = ("aten", "hcompile", "prims")
# Opens files, prints, reads raw memory, or skips the bounds checks that keep an index inside its tensor.
_REFUSED = re.compile(
    r"from_file|_print|set|_pin_memory|_resize_output|_nested_view_from_buffer\w*|_unsafe_(?!view$)\w*|\w+_unsafe"
)


def safe_operator(namespace: str, name: str, overload: str) -> torch._ops.OpOverload | None:
    """Return a tensor operator by its name, None where this torch has none of it or it does more than compute.

    It may still write to its arguments: graphs that must be functional ask `overload._schema.is_mutable` too.
    """
    if namespace not in NAMESPACES or _REFUSED.fullmatch(name):
        return None
    operator = getattr(getattr(getattr(torch.ops, namespace), name, None), overload, None)
    if not isinstance(operator, torch._ops.OpOverload):
        return None
    # Operators of TorchScript, which print, warn and open files, have no kernel in the dispatcher.
    full = f"{namespace}::{name}" if overload == "default" else f"{namespace}::{name}.{overload}"
    return operator if torch._C._dispatch_has_kernel(full) else None
