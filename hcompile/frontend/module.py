"""A module with example inputs, as an exported program."""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from typing import Any

import torch
from torch._dynamo.exc import UserError
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from hcompile.errors import UsageError
from hcompile.frontend.messages import one_line

Example = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments and keyword arguments of a call."""

_AXES = ("batch", "length")


def export_module(module: torch.nn.Module, example: Example, source: str) -> ExportedProgram:
    """Export a module, its first two dimensions (batch and sequence) dynamic wherever it allows that.

    Args:
        module: the model, in evaluation mode.
        example: what to call it with. Sizes that vary between calls should differ from 1 and from each other.
        source: what to call the model in errors.

    Raises:
        UsageError: the module cannot be called with these inputs, or cannot be exported.
    """
    try:
        for shared in (_AXES, _AXES[:1]):
            try:
                return _export(module, example, shared)
            except UserError:
                # Sizes that are equal in the example are not free in the model: one less is taken to be.
                continue
        return _export(module, example, ())
    except Exception as error:  # the user's own code runs here
        raise UsageError(
            f"{source}: the model cannot be exported with its example inputs ({one_line(error)}): "
            "torch.export must be able to trace it"
        ) from error


def _export(module: torch.nn.Module, example: Example, shared: tuple[str, ...]) -> ExportedProgram:
    """Export with one size for all inputs that have it in common, on the axes named in `shared`.

    What is not shared is left to torch, which gives two inputs two sizes wherever their product could broadcast, so
    that a mask would not be known to have the batch of its queries.
    """
    arguments, named = example
    tensors = [value for value in pytree.tree_leaves(example) if isinstance(value, torch.Tensor)]
    dims: dict[tuple[int, int], Any] = {}
    for axis, name in enumerate(shared):
        sizes = Counter(tensor.shape[axis] for tensor in tensors if tensor.dim() > axis)
        common = [size for size, count in sizes.items() if count > 1 and size > 1]
        dims |= {(axis, size): Dim(f"{name}_{size}", min=1) for size in common}

    def dynamic_axes(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return None
        return {axis: dims.get((axis, size), Dim.AUTO) for axis, size in enumerate(value.shape[: len(_AXES)])}

    parameters = inspect.signature(module.forward).bind(*arguments, **named).arguments
    dynamic = {name: pytree.tree_map(dynamic_axes, value) for name, value in parameters.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        return torch.export.export(module, arguments, named, dynamic_shapes=dynamic, strict=False)
