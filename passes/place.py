"""Placing: a program's tensors, and those that its graph makes, move to a device.

Programs are imported on the CPU, and artifacts hold none of a device: `place` is the last step before kernels are
bound, and the first before a program is written.
"""

from __future__ import annotations

import torch
from torch.fx import Graph, Node

from hcompile.program import Program


def place(program: Program, device: torch.device) -> Program:
    """Return the program on a device; the same where it is there. Tensors that are one memory still are."""
    return _placed(program, device, {})


def place_both(
    program: Program, original: Program | None, device: torch.device
) -> tuple[Program, Program | None]:
    """Place a program and the one that it was raised from, which share tensors: each tensor moves once."""
    moved: dict[tuple[object, ...], torch.Tensor] = {}
    placed = _placed(program, device, moved)
    return placed, None if original is None else _placed(original, device, moved)


def _placed(program: Program, device: torch.device, moved: dict[tuple[object, ...], torch.Tensor]) -> Program:
    if program.device == device:
        return program
    tensors = {name: _moved(tensor, device, moved) for name, tensor in program.tensors.items()}
    return program.with_graph(_graph_on(program.edit(), device), tensors)


def _moved(
    tensor: torch.Tensor, device: torch.device, moved: dict[tuple[object, ...], torch.Tensor]
) -> torch.Tensor:
    memory = (tensor.data_ptr() or id(tensor), tensor.dtype, tuple(tensor.shape), tensor.stride())
    if memory not in moved:
        moved[memory] = tensor.detach().to(device)
    return moved[memory]


def _graph_on(graph: Graph, device: torch.device) -> Graph:
    for node in graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        arguments = node.target._schema.arguments
        for index, argument in enumerate(arguments):
            if argument.name == "device" and (_given(node, index) is not None or _makes_tensors(arguments)):
                if index < len(node.args):
                    node.update_arg(index, device)
                else:
                    node.update_kwarg("device", device)
    return graph


def _given(node: Node, index: int) -> object:
    return node.args[index] if index < len(node.args) else node.kwargs.get("device")


def _makes_tensors(arguments: list[torch.Argument]) -> bool:
    """Say whether an operator takes no tensor whose device its result would have."""
    return not any("Tensor" in str(argument.type) for argument in arguments)
