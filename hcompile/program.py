"""A program: the functional graph of an exported model, its weights by name, and what the compiler knows of it.

Built from a `torch.export.ExportedProgram`. Placeholders of the graph are the model's own inputs; weights, buffers and
constants are `get_attr` nodes, so that the graph can be written as data and bound to shared weights.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from hcompile.checks import check_int, check_object, check_text, shown
from hcompile.errors import UsageError
from hcompile.guard import Guard
from hcompile.left import LeftDense
from hcompile.plan import Plan
from hcompile.site import Site

SITE_META = "hcompile_site"
"""Key of `node.meta` that holds the site's name on a raised attention node."""

_ASSERTIONS = frozenset(
    {
        "_assert_tensor_metadata",
        "_assert_scalar",
        "_assert_async",
        "sym_constrain_range",
        "sym_constrain_range_for_size",
    }
)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One tensor that a call takes.

    Attributes:
        name: the argument's name.
        dtype: torch's name of the dtype, such as `int64`.
        shape: sizes; a dynamic one is the name of its symbol.
        default: None where the caller must pass it, "ones" where ones of this shape stand in.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    default: str | None = None

    def __post_init__(self) -> None:
        check_text("input name", self.name)
        check_text(f"input {self.name}: dtype", self.dtype)
        if self.default not in (None, "ones"):
            raise ValueError(f"input {self.name}: default {shown(self.default)} is neither None nor 'ones'")
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"input {self.name}: {self.dtype!r} is no dtype")
        for size in self.shape:
            if isinstance(size, str):
                check_text(f"input {self.name}: symbol", size)
            else:
                check_int(f"input {self.name}: size", size)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), "default": self.default}

    @classmethod
    def from_json(cls, value: Any) -> InputSpec:
        """Raises: ValueError or TypeError when `value` is no input."""
        fields = check_object("input", value, ("name", "dtype", "shape", "default"))
        return cls(fields["name"], fields["dtype"], tuple(fields["shape"]), fields["default"])


@dataclass(frozen=True, slots=True)
class Program:
    """See the module's docstring. Passes return a changed copy; none changes a program in place.

    Attributes:
        graph: the graph; call it with the flat inputs, it returns the tuple of flat outputs.
        tensors: what the `get_attr` nodes name.
        inputs: the flat inputs, in the graph's order.
        input_tree: ((args), {kwargs}) with indices into `inputs` at the leaves, in JSON types.
        output_tree: the model's output, with indices into the flat outputs at the leaves.
        dims: symbol of each dynamic size to its least and largest value (None: no limit).
        sites: attention that was raised to the operator, in execution order.
        left: attention that was found and not raised.
        guards: assumptions on the inputs under which the raised graph equals the original.
        plan: what `select` put into the graph, None before.
    """

    graph: GraphModule
    tensors: Mapping[str, torch.Tensor]
    inputs: tuple[InputSpec, ...]
    input_tree: Any
    output_tree: Any
    dims: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    sites: tuple[Site, ...] = ()
    left: tuple[LeftDense, ...] = ()
    guards: tuple[Guard, ...] = ()
    plan: Plan | None = None

    def replace(self, **changes: Any) -> Program:
        return dataclasses.replace(self, **changes)

    @property
    def device(self) -> torch.device:
        """Where its tensors are: `hcompile.passes.place` moves them together."""
        return next((tensor.device for tensor in self.tensors.values()), torch.device("cpu"))

    def site(self, name: str) -> Site:
        return next(site for site in self.sites if site.name == name)

    def attention_nodes(self, graph: Graph | None = None) -> list[tuple[Site, Node]]:
        """Return the raised nodes with their sites, in execution order."""
        nodes = (self.graph.graph if graph is None else graph).nodes
        return [(self.site(node.meta[SITE_META]), node) for node in nodes if SITE_META in node.meta]

    def edit(self) -> Graph:
        """Return a copy of the graph for a pass to change; `with_graph` makes the program of it."""
        return _copy_graph(self.graph.graph)

    def with_graph(
        self, graph: Graph, tensors: Mapping[str, torch.Tensor] | None = None, **changes: Any
    ) -> Program:
        """Return this program with another graph (and tensors), dead code removed, tensors without a user dropped."""
        graph.eliminate_dead_code()
        available = self.tensors if tensors is None else tensors
        used = {node.target for node in graph.nodes if node.op == "get_attr"}
        kept = {name: tensor for name, tensor in available.items() if name in used}
        return self.replace(graph=bind_tensors(graph, kept), tensors=kept, **changes)

    def run(self, *flat_inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the graph eagerly."""
        outputs: tuple[torch.Tensor, ...] = self.graph(*flat_inputs)
        return outputs

    @classmethod
    def from_exported(
        cls, exported: torch.export.ExportedProgram, *, with_attention: bool = False
    ) -> Program:
        """Build the program of an export.

        Args:
            with_attention: the graph may hold nodes of the house's operator, since our own export put them there.

        Raises:
            UsageError: the model changes a buffer or an input, takes or returns something other than tensors in
                tuples, lists and dicts, or calls the house's operator itself.
        """
        with warnings.catch_warnings():
            # torch copies its own trees with a class that it has deprecated.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            functional = exported.run_decompositions({})
        if not with_attention:
            _refuse_own_operators(functional.graph)
        return _from_exported(functional)


def bind_tensors(graph: Graph, tensors: Mapping[str, torch.Tensor]) -> GraphModule:
    """Return a module that runs `graph` with `tensors` as its buffers (shared, not copied)."""
    root = torch.nn.Module()
    for name, tensor in tensors.items():
        root.register_buffer(name, tensor.detach())
    module = GraphModule(root, graph)
    module.eval()
    return module


def _copy_graph(graph: Graph) -> Graph:
    copy = Graph()
    val_map: dict[Node, Node] = {}
    outputs = copy.graph_copy(graph, val_map)
    copy.output(outputs)
    # graph_copy leaves the site names in each node's meta, which passes and `attention_nodes` rely on.
    assert all(SITE_META not in node.meta or SITE_META in val_map[node].meta for node in graph.nodes)
    return copy


def _refuse_own_operators(graph: Graph) -> None:
    """Raise UsageError for a node of `torch.ops.hcompile`: what its arguments say is only checked in our own graphs."""
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "hcompile":
            raise UsageError(
                f"the model calls {node.target}, which is for the compiler to put into a graph: "
                "export the model with torch's own attention"
            )


def _from_exported(exported: torch.export.ExportedProgram) -> Program:
    signature = exported.graph_signature
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        changed = ", ".join(
            [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
        )
        raise UsageError(
            f"the model changes its own state ({changed}): export it without caches or running statistics"
        )
    lifted = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    stored = {**exported.state_dict, **exported.constants}
    tensors: dict[str, torch.Tensor] = {}
    inputs: list[InputSpec] = []
    graph = Graph()
    mapping: dict[Node, Node] = {}
    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name in lifted:
            tensors[node.name] = stored[lifted[node.name]]
            mapping[node] = graph.get_attr(node.name)
            mapping[node].meta = dict(node.meta)
        elif node.op == "placeholder":
            inputs.append(_input_spec(node))
            mapping[node] = graph.placeholder(node.name)
            mapping[node].meta = dict(node.meta)
        elif node.op == "output":
            if not all(_is_tensor(value) for value in node.args[0]):
                raise UsageError("the model returns a constant or a number: return tensors only")
            graph.output(tuple(mapping[value] for value in node.args[0]))
        elif node.op == "call_function" and getattr(node.target, "_opname", "") in _ASSERTIONS:
            continue
        elif node.op == "call_function":
            mapping[node] = graph.node_copy(node, lambda used: mapping[used])
        else:
            raise UsageError(
                f"the exported graph holds a {node.op} of {node.target}: only calls of operators are understood"
            )
    graph.eliminate_dead_code()
    used = {node.target for node in graph.nodes if node.op == "get_attr"}
    tensors = {name: tensor for name, tensor in tensors.items() if name in used}
    return Program(
        graph=bind_tensors(graph, tensors),
        tensors=tensors,
        inputs=tuple(inputs),
        input_tree=_plain_tree(exported.call_spec.in_spec, "takes"),
        output_tree=_plain_tree(exported.call_spec.out_spec, "returns"),
        dims=_dims(exported, {size for spec in inputs for size in spec.shape if isinstance(size, str)}),
    )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Node) and isinstance(value.meta.get("val"), torch.Tensor)


def _input_spec(node: Node) -> InputSpec:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        raise UsageError(
            f"the model's input {node.name} is no tensor: pass tensors only, or fix it before the export"
        )
    shape: list[int | str] = []
    for size in value.shape:
        if not isinstance(size, int) and size.node.expr.is_Integer:
            # A size that the model turned out to fix.
            size = int(size.node.expr)
        if not isinstance(size, int) and not size.node.expr.is_Symbol:
            raise UsageError(
                f"a size of the model's input {node.name} is {size.node.expr}: "
                "export it with dynamic sizes that stand alone, without arithmetic on torch.export.Dim"
            )
        shape.append(size if isinstance(size, int) else str(size.node.expr))
    return InputSpec(node.name, str(value.dtype).removeprefix("torch."), tuple(shape))


def _dims(exported: torch.export.ExportedProgram, symbols: set[str]) -> dict[str, tuple[int, int | None]]:
    limits: dict[str, tuple[int, int | None]] = {}
    for symbol, constraint in exported.range_constraints.items():
        if str(symbol) in symbols:
            # torch.export assumes sizes of at least 2 while tracing, and its graphs run with 1 all the same. A larger
            # least size is the user's, or an assumption of the graph.
            lower = int(constraint.lower) if int(constraint.lower) > 2 else 1
            upper = (
                int(constraint.upper)
                if constraint.upper.is_Integer and int(constraint.upper) < 2**31
                else None
            )
            limits[str(symbol)] = (lower, upper)
    return limits


def _plain_tree(spec: pytree.TreeSpec, verb: str) -> Any:
    tree = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)

    def plain(value: Any) -> Any:
        if isinstance(value, int):
            return value
        if type(value) in (tuple, list):
            return [plain(item) for item in value]
        if type(value) is dict and all(isinstance(key, str) for key in value):
            return {key: plain(item) for key, item in value.items()}
        raise UsageError(
            f"the model {verb} a {type(value).__name__}: only tensors in tuples, lists and dicts are understood"
        )

    return plain(tree)
