"""A model that the user's own code builds, with weights from a state dict or a safetensors file."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hcompile.errors import UsageError
from hcompile.frontend.file_kind import STATE_DICT, describe, is_safetensors
from hcompile.frontend.messages import kind_of, listed, one_line

_FORM = "give --model package.module:function, a function without arguments that returns the model"
_SAME = "give the weights of the same model"


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """What a factory returned, in evaluation mode and with its weights in place.

    Attributes:
        module: the model.
        example_inputs: arguments and keyword arguments to export it with, None if the factory gave none.
    """

    module: torch.nn.Module
    example_inputs: tuple[tuple[Any, ...], dict[str, Any]] | None


def load_factory(spec: str, weights: Path | str | None = None) -> BuiltModel:
    """Import the function that `spec` names, call it, and load `weights` into the module it returns.

    The working directory is put on the import path, as `python -m` does. The factory is called once, without
    arguments, and returns the module alone or a pair `(module, example)`; `example_inputs` says what an example is.

    Weights are a state dict that `torch.save` wrote, read with `weights_only=True`, or a safetensors file: nothing in
    the file is executed. Their names and shapes must be exactly the module's. A weight that is tied to one in the
    file may be left out, since safetensors stores tied weights once.

    Args:
        spec: `package.module:function`.
        weights: the file, None if the factory loads its weights itself.

    Raises:
        UsageError: the module cannot be imported, has no such function, the function fails or returns something
            else, or the weights cannot be read or do not fit.
    """
    returned = _call(spec, _resolve(spec))
    module, example = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"--model {spec} returned {kind_of(returned)}: return a torch.nn.Module, or a module and example inputs"
        )
    inputs = None if example is None else example_inputs(spec, example)
    if weights is not None:
        _load_weights(module, read_weights(Path(weights)), Path(weights), spec)
    return BuiltModel(module.eval(), inputs)


def example_inputs(spec: str, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments and keyword arguments that a factory's example stands for.

    A dict is the keyword arguments by name, a tuple or list the positional arguments in order, one tensor the only
    positional argument. Sizes that vary between calls should differ from 1 and from each other. A factory that
    returns no example needs inputs from elsewhere: a safetensors file of named inputs as `--calib`.

    Raises:
        UsageError: the example is something else.
    """
    match example:
        case torch.Tensor():
            return (example,), {}
        case dict() if all(isinstance(name, str) for name in example):
            return (), dict(example)
        case tuple() | list():
            return tuple(example), {}
    raise UsageError(
        f"--model {spec} returned {kind_of(example)} as example: give a dict of inputs by name, or a tuple of inputs"
    )


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors by name of a state dict or safetensors file, on the CPU.

    Raises:
        UsageError: the file is missing, damaged, or holds more than tensors by name.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a file: give a state dict (.pt, .pth) or safetensors as the weights")
    try:
        stored = _load_safetensors(path) if is_safetensors(path) else _load_state_dict(path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror or error}): check the file and its rights"
        ) from error
    if not isinstance(stored, Mapping):
        raise UsageError(f"{path} holds {kind_of(stored)}, not a state dict: save model.state_dict()")
    if others := [str(name) for name, value in stored.items() if not isinstance(value, torch.Tensor)]:
        raise UsageError(
            f"{path} holds more than tensors by name ({listed(others)}): save the state dict among them alone"
        )
    return dict(stored)


def _load_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise UsageError(f"{path} is a damaged safetensors file ({error}): copy or save it again") from error


def _load_state_dict(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile pickle makes the unpickler raise anything
        kind = describe(path)
        if kind == STATE_DICT:
            kind = f"is a damaged state dict ({one_line(error)}): copy or save it again"
        raise UsageError(f"{path} {kind}") from error


def _resolve(spec: str) -> Callable[[], Any]:
    module_name, _, function_name = spec.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *function_name.split(".")]):
        raise UsageError(f"--model {spec} is not of the form package.module:function: {_FORM}")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # the user's own code runs here
        raise UsageError(
            f"--model {spec}: importing {module_name} failed ({one_line(error)}): "
            "run from the folder that holds it, or install it"
        ) from error
    for name in function_name.split("."):
        if not hasattr(found, name):
            raise UsageError(f"--model {spec}: {module_name} has no {function_name}: {_FORM}")
        found = getattr(found, name)
    if isinstance(found, torch.nn.Module) or not callable(found):
        raise UsageError(f"--model {spec} names {kind_of(found)}, not a function: {_FORM}")
    factory: Callable[[], Any] = found
    return factory


def _call(spec: str, factory: Callable[[], Any]) -> Any:
    try:
        return factory()
    except Exception as error:  # the user's own code runs here
        raise UsageError(f"--model {spec}: the factory failed ({one_line(error)}): {_FORM}") from error


def _load_weights(module: torch.nn.Module, weights: dict[str, torch.Tensor], path: Path, spec: str) -> None:
    wanted = module.state_dict(keep_vars=True)
    tied = {
        _place(tensor)
        for name, tensor in wanted.items()
        if name in weights and isinstance(tensor, torch.Tensor)
    }
    missing = [name for name, tensor in wanted.items() if name not in weights and _place(tensor) not in tied]
    if missing:
        raise UsageError(f"{path} lacks {listed(missing)} of the model that {spec} builds: {_SAME}")
    if unexpected := [name for name in weights if name not in wanted]:
        raise UsageError(
            f"{path} holds {listed(unexpected)}, which the model that {spec} builds lacks: {_SAME}"
        )
    other = [
        f"{name} {list(tensor.shape)} instead of {list(wanted[name].shape)}"
        for name, tensor in weights.items()
        if tensor.shape != wanted[name].shape
    ]
    if other:
        raise UsageError(f"{path} holds {listed(other)} for the model that {spec} builds: {_SAME}")
    module.load_state_dict(weights, strict=False)


def _place(tensor: Any) -> tuple[Any, ...]:
    """Return what two state dict entries share if they are one tensor."""
    if not isinstance(tensor, torch.Tensor) or tensor.data_ptr() == 0:
        return (id(tensor),)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()
