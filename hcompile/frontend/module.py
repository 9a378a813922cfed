"""A module with example inputs, as an exported program."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from hcompile.errors import UsageError
from hcompile.frontend.messages import one_line

Example = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments and keyword arguments of a call."""

_DYNAMIC_AXES = 2


def export_module(module: torch.nn.Module, example: Example, source: str) -> ExportedProgram:
    """Export a module, its first two dimensions (batch and sequence) dynamic wherever it allows that.

    Args:
        module: the model, in evaluation mode.
        example: what to call it with. Sizes that vary between calls should differ from 1 and from each other.
        source: what to call the model in errors.

    Raises:
        UsageError: the module cannot be called with these inputs, or cannot be exported.
    """
    arguments, named = example
    try:
        parameters = inspect.signature(module.forward).bind(*arguments, **named).arguments
        dynamic = {name: pytree.tree_map(_dynamic_axes, value) for name, value in parameters.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            return torch.export.export(module, arguments, named, dynamic_shapes=dynamic, strict=False)
    except Exception as error:  # the user's own code runs here
        raise UsageError(
            f"{source}: the model cannot be exported with its example inputs ({one_line(error)}): "
            "torch.export must be able to trace it"
        ) from error


def _dynamic_axes(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return None
    return dict.fromkeys(range(min(_DYNAMIC_AXES, value.dim())), Dim.AUTO)
