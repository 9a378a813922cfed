"""Compile a program's graph with Inductor, once for every batch size and length.

`torch.compile` traces a graph again for each size of 0 or 1 and guards every weight on every call. The graph here is
already traced, so it goes to Inductor directly, with symbolic sizes for the dynamic dimensions and the weights as
inputs: one compilation serves all shapes, the weights stay shared, and a call pays for no guard.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from torch.fx import Graph, GraphModule, Node

from hcompile.errors import UsageError
from hcompile.passes.shared_waves import keep_shared_waves
from hcompile.program import InputSpec, Program

# The first of the sizes that dynamic dimensions are traced with, where their limits allow it. Smaller sizes run
# correctly (tests/runtime/test_inductor.py).
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
        tensors: Iterable[torch.Tensor] = self._tensors.values()
        if changed:
            tensors = [changed.get(name, tensor) for name, tensor in self._tensors.items()]
        with torch.no_grad(), _no_autocast(self._program.device.type):
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
    keep_shared_waves(graph)
    # Inductor keeps global state: one compilation at a time, whoever asks torch for it.
    with compile_lock, torch.inference_mode(False), torch.no_grad(), _no_autocast(program.device.type):
        mode, fakes = _symbolic_inputs(program, tensors)
        for node, fake in zip(graph.find_nodes(op="placeholder"), fakes, strict=True):
            node.meta["val"] = fake
        with tracing(TracingContext(mode)), _one_thread_pool(), warnings.catch_warnings():
            # Advice to compute products of float32 less exactly, which is the model's author's to take.
            warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
            compiled = cast(Callable[..., Any], compile_fx(GraphModule(torch.nn.Module(), graph), fakes))
    check_free_sizes(program, fakes[len(tensors) :])
    return compiled


def _no_autocast(device: str) -> AbstractContextManager[None]:
    """Keep a caller's autocast out: the graph says which dtype each operator computes in."""
    return torch.autocast(device, enabled=False)


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
    hints = example_sizes(program)
    taken = list(hints.values())

    def kind(size: int | str) -> DimDynamic:
        if isinstance(size, int):
            return DimDynamic.STATIC
        # Dimensions of equal size share a symbol, but for sizes that two of the program's had to share.
        return DimDynamic.DUCK if taken.count(hints[size]) == 1 else DimDynamic.DYNAMIC

    def fake(name: str, value: torch.Tensor, sizes: Iterable[int | str]) -> torch.Tensor:
        # Symbols are named after the source, so a stable name keeps Inductor's disk cache warm across processes.
        context: Any = StatelessSymbolicContext(dynamic_sizes=[kind(size) for size in sizes])
        return mode.from_tensor(value, symbolic_context=context, source=ConstantSource(name))

    fakes = [fake(name, value, value.shape) for name, value in tensors.items()]
    for spec in program.inputs:
        shape, dtype = example_shape(spec, hints), getattr(torch, spec.dtype)
        example = torch.empty(shape, dtype=dtype, device=program.device)
        fakes.append(fake(spec.name, example, spec.shape))
    return mode, fakes


def example_sizes(program: Program) -> dict[str, int]:
    """Return the size within its limits that each dynamic dimension is traced with, by its symbol."""
    shapes = [spec.shape for spec in program.inputs]
    stored = [tensor.shape for tensor in program.tensors.values()]
    fixed = {size for shape in (*shapes, *stored) for size in shape if isinstance(size, int)}
    sizes: dict[str, int] = {}
    for symbol in (size for shape in shapes for size in shape if isinstance(size, str)):
        if symbol not in sizes:
            wanted = _FIRST_HINT + 10 * len(sizes)
            sizes[symbol] = _example_size(program.dims.get(symbol, (1, None)), wanted, sizes.values(), fixed)
    return sizes


def _example_size(
    limits: tuple[int, int | None], wanted: int, taken: Collection[int], fixed: Collection[int]
) -> int:
    """Return a size near `wanted` that no graph is likely to be specialized for.

    As far as the limits allow, it is above 1, since Inductor fixes sizes of 0 and 1; it equals no other size, since
    sizes that are equal when traced may be taken for equal for good; and it is odd, since the same goes for divisors.
    """
    least, most = limits
    nearest = max(least, wanted) if most is None else max(least, min(wanted, most))
    reach = 2 * (len(taken) + len(fixed) + 1)
    last = nearest + reach if most is None else min(most, nearest + reach)
    return min(
        range(max(least, nearest - reach), last + 1),
        key=lambda size: (size < 2, size in taken, size in fixed, size % 2 == 0, abs(size - nearest)),
    )


def example_shape(spec: InputSpec, sizes: Mapping[str, int]) -> list[int]:
    """Return the traced shape of an input."""
    return [sizes[size] if isinstance(size, str) else size for size in spec.shape]


def check_free_sizes(program: Program, inputs: Iterable[torch.Tensor]) -> None:
    """Raise UsageError where tracing has fixed a dynamic size or made two of them one: other calls would be wrong."""
    places: dict[Any, tuple[str, str]] = {}
    for spec, traced in zip(program.inputs, inputs, strict=True):
        for axis, (symbol, size) in enumerate(zip(spec.shape, traced.shape, strict=True)):
            least, most = program.dims.get(str(symbol), (1, None))
            if isinstance(symbol, int) or least == most or not isinstance(size, torch.SymInt):
                continue
            place = f"axis {axis} of {spec.name}"
            if size.node.expr.is_Integer:
                raise UsageError(
                    f"the graph compiles only if {place} is {size.node.expr}: export it with that size fixed"
                )
            other, first = places.setdefault(size.node.expr, (symbol, place))
            if other != symbol:
                raise UsageError(
                    f"the graph compiles only if {first} and {place} are equal: export it with one size for both"
                )
