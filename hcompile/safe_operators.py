"""Which operators a graph from elsewhere may call: those that compute on tensors and do nothing else.

That is every operator of `aten` and `prims` with a kernel, less those that open files, print or exchange memory, and
less those that are known to trust indices, offsets or pointers which they do not check. It is no list of operators that
were proven to stay inside their memory: for the rest, torch's own checks are relied on.
"""

from __future__ import annotations

import re

import torch

TORCH_NAMESPACES = ("aten", "prims")
NAMESPACES = (*TORCH_NAMESPACES, "hcompile")

_NOT_COMPUTING = r"from_file|_print|set|_pin_memory|_resize_output"
_TRUSTING = "|".join(
    (
        r"(?!_unsafe_view$)\w*_unsafe\w*",  # skip bounds checks and say so; `_unsafe_view` checks like `view`
        r"\w*_backward\w*",  # write where the indices of a forward pass say; no inference calls them
        r"segment_reduce\w*|_?ctc_loss\w*|linalg_(ldl|lu)_solve\w*|lu_solve",  # lengths, targets, pivots
        r"_?sparse_\w*|_nested_\w*|_convert_indices_\w*",  # indices and offsets of such layouts
        r"_reshape_alias\w*",  # strides
        r"_cudnn\w*|_cslt\w*",  # states and weights packed for a library
        r"q_\w+|_make_\w+quant\w*",  # quantized tensors from parts
    )
)
_REFUSED = re.compile(f"{_NOT_COMPUTING}|{_TRUSTING}")


def safe_operator(namespace: str, name: str, overload: str) -> torch._ops.OpOverload | None:
    """Return a tensor operator by its name, None where this torch has none of it or it is one of those left out.

    It may still write to its arguments: graphs that must be functional ask `overload._schema.is_mutable` too.
    """
    if namespace not in NAMESPACES or _REFUSED.fullmatch(name):
        return None
    operator = getattr(getattr(getattr(torch.ops, namespace), name, None), overload, None)
    if not isinstance(operator, torch._ops.OpOverload):
        return None
    # An argument of this name turns bounds checks off.
    if any(argument.name == "unsafe" for argument in operator._schema.arguments):
        return None
    # Operators of TorchScript, which print, warn and open files, have no kernel in the dispatcher.
    full = f"{namespace}::{name}" if overload == "default" else f"{namespace}::{name}.{overload}"
    return operator if torch._C._dispatch_has_kernel(full) else None
