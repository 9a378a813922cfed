"""Which library multiplies the model's weight matrices: torch's default (MKL) or oneDNN, whichever is faster here.

Both sides of every comparison take the same choice, so that a faster library is never counted as a gain of sparsity.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from hcompile.linear_operator import onednn_linear
from hcompile.passes.refit import ONEDNN, WEIGHT, refit_nodes
from hcompile.program import Program

LIBRARIES = ("default", "onednn")
_REPEATS = 7
# oneDNN must win by more than the timer's noise.
_LEAST_GAIN = 0.97


def use_library(program: Program, library: str) -> Program:
    """Return the program with its float32 linears through `library`; others stay with torch's default.

    Raises:
        ValueError: the library is not one of `LIBRARIES`.
    """
    if library not in LIBRARIES:
        raise ValueError(f"linear library {library!r} is not one of {', '.join(LIBRARIES)}")
    if library == "default":
        return program
    graph = program.edit()
    for node in graph.nodes:
        if node.target is torch.ops.aten.linear.default and _is_float32(program, node.args[1]):
            x, weight, *bias = node.args
            node.target = onednn_linear
            node.args = (x, weight, bias[0] if bias else None)
    for node in refit_nodes(graph):
        node.update_arg(ONEDNN, _is_float32(program, node.args[WEIGHT]))
    return program.with_graph(graph)


def largest_linear(program: Program) -> torch.Tensor | None:
    """Return the weight `[out, in]` of the program's largest float32 linear, None where there is none."""
    weights = [
        program.tensors[node.args[1].target]
        for node in program.graph.graph.nodes
        if node.target is torch.ops.aten.linear.default and _is_float32(program, node.args[1])
    ]
    return max(weights, key=torch.numel) if weights else None


def faster_library(weight: torch.Tensor | None, rows: int = 2048) -> str:
    """Return the name of the library that is faster on a linear of this weight `[out, in]` with `rows` tokens."""
    if weight is None or not torch.backends.mkldnn.is_available():
        return "default"
    x = torch.randn(1, rows, weight.shape[1])
    calls: tuple[Callable[[], object], ...] = (
        lambda: torch.nn.functional.linear(x, weight),
        lambda: onednn_linear(x, weight, None),
    )
    seconds: tuple[list[float], ...] = ([], [])
    with torch.inference_mode():
        for _ in range(_REPEATS):
            for call, taken in zip(calls, seconds, strict=True):
                start = time.perf_counter()
                call()
                taken.append(time.perf_counter() - start)
    # The first round of each warms caches and threads.
    default, onednn = (median(taken[1:]) for taken in seconds)
    return "onednn" if onednn < _LEAST_GAIN * default else "default"


def _is_float32(program: Program, weight: object) -> bool:
    if not isinstance(weight, torch.fx.Node) or weight.op != "get_attr":
        return False
    tensor = program.tensors[str(weight.target)]
    return tensor.dtype == torch.float32 and tensor.dim() == 2
