"""Inputs made up for a program: to compile, to warm up and to time it."""

from __future__ import annotations

import torch

from hcompile.passes.sites import Q, arguments
from hcompile.policy.interface import Interface
from hcompile.program import Program


def length_axis(program: Program) -> tuple[int, int] | None:
    """Return (input, axis) of the dynamic size that the program's attention runs over, None where it is fixed.

    The program must come from an export (its nodes carry traced shapes).
    """
    lengths = {str(arguments(node)[Q].meta["val"].shape[2]) for _, node in program.attention_nodes()}
    for index, spec in enumerate(program.inputs):
        for axis, size in enumerate(spec.shape):
            if size and size in lengths and axis > 0:
                return index, axis
    return None


def limits(program: Program, axis: tuple[int, int] | None) -> tuple[int, int | None]:
    """Return the least and the largest number of tokens that the export allows, None where there is no largest.

    Where the length is fixed (`axis` is None) both are what the first attention runs over.
    """
    if axis is None:
        fixed = _fixed_length(program)
        return fixed or 1, fixed
    least, most = program.dims.get(str(program.inputs[axis[0]].shape[axis[1]]), (1, None))
    return max(1, least), most


def interface_of(program: Program, axis: tuple[int, int] | None) -> Interface:
    """Return how a program is called, and over how many positions its attention runs where the export fixed that."""
    return Interface.of(program, axis, _fixed_length(program) if axis is None else None)


def batch_axis(program: Program, axis: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return (input, axis) of the batch size, None in a program without one.

    It is the first axis of an input that must be given: where one has a dynamic size other than the length's (on
    `axis`), of that one, else of the first with more than one axis.
    """
    length = _symbol(program, axis)
    required = [(index, spec.shape) for index, spec in enumerate(program.inputs) if spec.default is None]
    free = [
        (place, index)
        for index, shape in required
        for place, size in enumerate(shape)
        if isinstance(size, str) and size != length
    ]
    if free:
        place, index = min(free)
        return index, place
    return next(
        ((index, 0) for index, shape in required if len(shape) > 1 and isinstance(shape[0], int)), None
    )


def batch_limits(program: Program, axis: tuple[int, int] | None) -> tuple[int, int | None]:
    """Return the least and the largest batch size that the export allows, None where there is no largest."""
    length, place = _symbol(program, axis), batch_axis(program, axis)
    size = 1 if place is None else program.inputs[place[0]].shape[place[1]]
    if isinstance(size, int):
        return max(1, size), max(1, size)
    # `made_up_inputs` gives every dynamic size but the length's the batch size.
    symbols = {size for spec in program.inputs for size in spec.shape if isinstance(size, str)} - {length}
    bounds = [program.dims.get(str(symbol), (1, None)) for symbol in symbols]
    most = [most for _, most in bounds if most is not None]
    return max(1, *(least for least, _ in bounds)), min(most, default=None)


def allows(limits: tuple[int, int | None], size: int) -> bool:
    """Return whether a number of tokens, or a batch size, lies within the limits."""
    least, most = limits
    return size >= least and (most is None or size <= most)


def _symbol(program: Program, axis: tuple[int, int] | None) -> int | str | None:
    return None if axis is None else program.inputs[axis[0]].shape[axis[1]]


def _fixed_length(program: Program) -> int | None:
    """Return what the first attention runs over, None in a program without one."""
    first = next((node for _, node in program.attention_nodes()), None)
    if first is None:
        return None
    queries = arguments(first)[Q]
    if "val" not in queries.meta:
        # Read from an artifact, where shapes are not kept.
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.passes.fake_tensor_prop import FakeTensorProp

        program = program.with_graph(program.edit())
        queries = next(arguments(node)[Q] for _, node in program.attention_nodes())
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        FakeTensorProp(program.graph, mode).propagate(*made_up_inputs(program, None, 1, 1))
    return int(queries.meta["val"].shape[2])


def made_up_inputs(
    program: Program,
    axis: tuple[int, int] | None,
    batch: int,
    length: int,
    generator: torch.Generator | None = None,
) -> list[torch.Tensor]:
    """Return random flat inputs: token ids of the vocabulary, normal numbers, and ones where a default stands in."""
    symbol = _symbol(program, axis)
    flat = []
    for spec in program.inputs:
        shape = [
            size if isinstance(size, int) else length if size == symbol else batch for size in spec.shape
        ]
        dtype = getattr(torch, spec.dtype)
        if spec.default == "ones" or dtype == torch.bool:
            flat.append(torch.ones(shape, dtype=dtype, device=program.device))
        elif dtype.is_floating_point:
            flat.append(torch.randn(shape, generator=generator).to(program.device, dtype))
        else:
            most = vocabulary(program, spec.name) or 2
            ids = torch.randint(0, most, shape, generator=generator, dtype=dtype)
            flat.append(ids.to(program.device))
    return flat


def vocabulary(program: Program, name: str) -> int | None:
    """Return how many ids the embedding that reads the input holds, None where none reads it."""
    for node in program.graph.graph.find_nodes(op="call_function", target=torch.ops.aten.embedding.default):
        weight, ids = node.args[:2]
        if ids.op == "placeholder" and ids.target == name and weight.op == "get_attr":
            return program.tensors[weight.target].shape[0]
    return None
