"""Compile a program's graph with Inductor, once for every batch size and length.

`torch.compile` traces a graph again for each size of 0 or 1 and guards every weight on every call. The graph here is
already traced, so it goes to Inductor directly, with symbolic sizes for the dynamic dimensions and the weights as
inputs: one compilation serves all shapes, the weights stay shared, and a call pays for no guard.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from torch.fx import Graph, GraphModule, Node

from hcompile.program import InputSpec, Program

# Traced sizes of the dynamic dimensions: distinct, so that only dimensions of one symbol share one, and above 1,
# since Inductor fixes sizes of 0 and 1. Smaller sizes run correctly (tests/runtime/test_inductor.py).
_FIRST_HINT = 67


class CompiledGraph:
    """A program's graph as one Inductor function, compiled at the first call.

    Safe to call from several threads: the first call compiles under a lock.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        # One order, so that the same graph is found in Inductor's cache wherever its weights come from.
        self._tensors = {name: program.tensors[name].detach() for name in sorted(program.tensors)}
        self._compiled: Callable[..., Any] | None = None
        self._lock = threading.Lock()

    def __call__(self, *flat_inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the graph on flat inputs, without gradients."""
        return self.call_with({}, flat_inputs)

    def call_with(
        self, changed: Mapping[str, torch.Tensor], flat_inputs: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        """Run the graph with some tensors (of the same shape and dtype) exchanged for this call only."""
        compiled = self._compiled or self._compile()
        tensors = [changed.get(name, tensor) for name, tensor in self._tensors.items()]
        with torch.no_grad(), _no_autocast():
            # The compiled code reads its inputs as contiguous, which is how they were traced.
            return tuple(compiled(*tensors, *(value.contiguous() for value in flat_inputs)))

    def _compile(self) -> Callable[..., Any]:
        with self._lock:
            if self._compiled is None:
                self._compiled = _compile(self._program, self._tensors)
            return self._compiled


def _compile(program: Program, tensors: Mapping[str, torch.Tensor]) -> Callable[..., Any]:
    """Compile a graph that takes `tensors` first, in their order, and then the inputs."""
    from torch._dynamo.convert_frame import compile_lock
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import compile_fx

    graph = _lift_tensors(program, tensors)
    # Inductor keeps global state: one compilation at a time, whoever asks torch for it.
    with compile_lock, torch.inference_mode(False), torch.no_grad(), _no_autocast():
        mode, fakes = _symbolic_inputs(program, tensors)
        for node, fake in zip(graph.find_nodes(op="placeholder"), fakes, strict=True):
            node.meta["val"] = fake
        with tracing(TracingContext(mode)), _one_thread_pool():
            compiled = cast(Callable[..., Any], compile_fx(GraphModule(torch.nn.Module(), graph), fakes))
    return compiled


def _no_autocast() -> AbstractContextManager[None]:
    """Keep a caller's autocast out: the graph says which dtype each operator computes in."""
    return torch.autocast("cpu", enabled=False)


@contextmanager
def _one_thread_pool() -> Iterator[None]:
    """Let a graph compiled here adapt to torch's thread count at run time instead of fixing today's."""
    from torch._inductor import config

    with config.patch({"cpp.dynamic_threads": True}):
        yield


def _lift_tensors(program: Program, names: Iterable[str]) -> Graph:
    """Return the graph with the tensors as its first placeholders."""
    lifted = Graph()
    values: dict[str, Node] = {name: lifted.placeholder(name) for name in names}
    mapping: dict[Node, Node] = {}
    for node in program.graph.graph.nodes:
        if node.op == "get_attr":
            mapping[node] = values[node.target]
        elif node.op == "output":
            lifted.output(tuple(mapping[value] for value in node.args[0]))
        else:
            mapping[node] = lifted.node_copy(node, lambda used: mapping[used])
    return lifted


def _symbolic_inputs(program: Program, tensors: Mapping[str, torch.Tensor]) -> tuple[Any, list[torch.Tensor]]:
    from torch._dynamo.source import ConstantSource
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    mode = FakeTensorMode(shape_env=ShapeEnv())

    def fake(name: str, value: torch.Tensor, dynamic: list[bool]) -> torch.Tensor:
        sizes = [DimDynamic.DUCK if is_dynamic else DimDynamic.STATIC for is_dynamic in dynamic]
        # Symbols are named after the source, so a stable name keeps Inductor's disk cache warm across processes.
        context: Any = StatelessSymbolicContext(dynamic_sizes=sizes)
        return mode.from_tensor(value, symbolic_context=context, source=ConstantSource(name))

    hints: dict[str, int] = {}
    fakes = [fake(name, value, [False] * value.dim()) for name, value in tensors.items()]
    for spec in program.inputs:
        example = torch.empty(example_shape(spec, hints), dtype=getattr(torch, spec.dtype))
        fakes.append(fake(spec.name, example, [isinstance(size, str) for size in spec.shape]))
    return mode, fakes


def example_shape(spec: InputSpec, hints: dict[str, int]) -> list[int]:
    """Return a traced shape: each symbol gets one distinct size, kept in `hints`."""
    shape = []
    for size in spec.shape:
        if isinstance(size, str):
            size = hints.setdefault(size, _FIRST_HINT + 10 * len(hints))
        shape.append(size)
    return shape
