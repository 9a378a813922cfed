"""Turning a call's arguments into the flat inputs of a program, and flat outputs into the model's output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from hcompile.errors import UsageError
from hcompile.program import Program


class Outputs(dict[str, Any]):
    """A model's outputs by name, also as attributes: `outputs.logits`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the model has no output {name!r} (it has {', '.join(self)})") from None


class Signature:
    """How a program is called: positional and keyword arguments, their dtypes and sizes."""

    def __init__(self, program: Program) -> None:
        self._inputs = program.inputs
        self._dims = program.dims
        self._device = program.device
        positional, keyword = program.input_tree
        # An argument that was exported by position may also be named, and the other way round, as in Python.
        self._order: list[Any] = [*positional, *keyword.values()]
        self._by_name: dict[str, Any] = {
            spec.name: index for index, spec in enumerate(self._inputs)
        } | keyword
        self._output_tree = program.output_tree

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self._inputs)

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor | None]:
        """Return the flat inputs in the program's order; None where a default stands in.

        Raises:
            UsageError: an argument is missing, unknown, given twice, or of another kind, dtype or size than exported.
        """
        flat: list[torch.Tensor | None] = [None] * len(self._inputs)
        if len(args) > len(self._order):
            raise UsageError(
                f"the model takes {len(self._order)} arguments ({', '.join(self.names)}), got {len(args)}"
            )
        given = [(self._order[place], value, f"argument {place}") for place, value in enumerate(args)]
        for name, value in kwargs.items():
            if name not in self._by_name:
                raise UsageError(f"the model takes no argument {name!r} (it takes {', '.join(self.names)})")
            given.append((self._by_name[name], value, f"argument {name!r}"))
        for tree, value, argument in given:
            for index, tensor in _leaves(tree, value, argument):
                if flat[index] is not None:
                    raise UsageError(f"argument {self._inputs[index].name!r} is given twice")
                flat[index] = tensor
        self.check(flat)
        return flat

    def unflatten(self, outputs: tuple[torch.Tensor, ...]) -> Any:
        return _build(self._output_tree, outputs)

    def check(self, flat: Sequence[torch.Tensor | None]) -> None:
        """Raise UsageError unless the flat inputs are what the program was exported for."""
        sizes: dict[str, tuple[int, str]] = {}
        for spec, value in zip(self._inputs, flat, strict=True):
            if value is None:
                if spec.default is None:
                    raise UsageError(
                        f"argument {spec.name!r} is missing: pass a tensor of shape {_shape(spec.shape)}"
                    )
                continue
            if not isinstance(value, torch.Tensor):
                raise UsageError(f"argument {spec.name!r} is a {type(value).__name__}: pass a tensor")
            if value.device != self._device:
                raise UsageError(f"argument {spec.name!r} is on {value.device}: move it to {self._device}")
            if value.dtype != getattr(torch, spec.dtype):
                raise UsageError(
                    f"argument {spec.name!r} is {value.dtype}, the model was exported with torch.{spec.dtype}"
                )
            if value.dim() != len(spec.shape):
                raise UsageError(
                    f"argument {spec.name!r} has shape {list(value.shape)}, wanted {_shape(spec.shape)}"
                )
            for size, wanted in zip(value.shape, spec.shape, strict=True):
                if isinstance(wanted, int):
                    if size != wanted:
                        raise UsageError(
                            f"argument {spec.name!r} has shape {list(value.shape)}, wanted {_shape(spec.shape)}"
                        )
                    continue
                self._check_size(spec.name, size, wanted, sizes)

    def _check_size(self, name: str, size: int, symbol: str, sizes: dict[str, tuple[int, str]]) -> None:
        known, first = sizes.setdefault(symbol, (size, name))
        if known != size:
            raise UsageError(f"arguments {first!r} and {name!r} disagree on a size: {known} and {size}")
        low, high = self._dims.get(symbol, (0, None))
        if size < low or (high is not None and size > high):
            limit = f"from {low} to {high}" if high is not None else f"of at least {low}"
            raise UsageError(f"argument {name!r} has a size of {size}: the export allows sizes {limit}")


def _leaves(tree: Any, value: Any, argument: str) -> Iterator[tuple[int, Any]]:
    """Pair the indices at the leaves of `tree` with the tensors at the same places of `value`."""
    if isinstance(tree, int):
        yield tree, value
    elif isinstance(tree, list) and isinstance(value, (list, tuple)) and len(tree) == len(value):
        for branch, item in zip(tree, value, strict=True):
            yield from _leaves(branch, item, argument)
    elif isinstance(tree, dict) and isinstance(value, Mapping) and set(tree) == set(value):
        for key, branch in tree.items():
            yield from _leaves(branch, value[key], argument)
    else:
        raise UsageError(f"{argument} is a {type(value).__name__}, wanted tensors as in {_structure(tree)}")


def _build(tree: Any, flat: tuple[torch.Tensor, ...]) -> Any:
    if isinstance(tree, int):
        return flat[tree]
    if isinstance(tree, dict):
        return Outputs({key: _build(branch, flat) for key, branch in tree.items()})
    return tuple(_build(branch, flat) for branch in tree)


def _structure(tree: Any) -> str:
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key!r}: {_structure(branch)}" for key, branch in tree.items()) + "}"
    return "[" + ", ".join(map(_structure, tree)) + "]" if isinstance(tree, list) else "tensor"


def _shape(shape: tuple[int | str, ...]) -> str:
    return "[" + ", ".join(str(size) if isinstance(size, int) else "any" for size in shape) + "]"
