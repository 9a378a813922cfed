"""The dense baselines: what a user gets from torch without hcompile, each as fast as torch makes it.

All run the model with maskless causal SDPA, K and V not repeated, and the same linears as the hybrid.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from hcompile.passes.lower import drop_key_mask, lower_dense
from hcompile.passes.sites import Q, arguments
from hcompile.program import Program, bind_tensors
from hcompile.runtime.inductor import CompiledGraph

Call = Callable[..., tuple[torch.Tensor, ...]]


def dense_candidates(program: Program) -> dict[str, Call]:
    """Return the dense baselines by name: eager, compiled once for all shapes, and compiled for each shape.

    Args:
        program: a raised program, its linears as the hybrid's.
    """
    dense = lower_dense(program)
    static = _without_gradients(torch.compile(dense.graph, dynamic=False))
    candidates: dict[str, Call] = {
        "eager": _without_gradients(dense.graph),
        "compiled dynamic": CompiledGraph(dense),
        "compiled static": static,
    }
    if program.device.type == "cuda":
        # Compiled anew: which of torch's implementations runs is decided when a graph is traced.
        again = bind_tensors(dense.edit(), dense.tensors)
        candidates["compiled static, cuDNN"] = _on_cudnn(
            _without_gradients(torch.compile(again, dynamic=False))
        )
    return candidates


def without_attention(program: Program) -> CompiledGraph:
    """Return the program with every attention replaced by its queries: the time of the rest of the model."""
    program = drop_key_mask(program)
    graph = program.edit()
    for _, node in program.attention_nodes(graph):
        node.replace_all_uses_with(arguments(node)[Q])
        graph.erase_node(node)
    return CompiledGraph(program.with_graph(graph))


def _on_cudnn(call: Call) -> Call:
    """Prefer cuDNN's attention; torch prefers its own FlashAttention-2, which is slower on some GPUs."""

    def run(*flat_inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
        # torch's cache of traced graphs does not tell them apart by this (pytorch issue 185449).
        traced_anew = torch._functorch.config.patch(enable_autograd_cache=False)
        with traced_anew, sdpa_kernel(order, set_priority=True):
            return call(*flat_inputs)

    return run


def _without_gradients(call: Callable[..., tuple[torch.Tensor, ...]]) -> Call:
    def run(*flat_inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return call(*flat_inputs)

    return run
