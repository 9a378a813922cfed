"""The JSON form of a program's graph: data whose every part is checked, never evaluated.

A graph is written as its nodes in order: operators by their names in `torch.ops.aten`, `torch.ops.prims` and
`torch.ops.hcompile`, a few functions of symbolic sizes, arguments in plain JSON. Reading it back can only build calls
of functional operators that compute on tensors, less those known to trust indices that they do not check
(`hcompile.safe_operators`): a graph from elsewhere cannot run code or open files, and it stays inside its own memory
as far as torch's operators check what they are given.
"""

from __future__ import annotations

import keyword
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import Graph, Node

from hcompile.checks import check_text, shown
from hcompile.errors import UsageError
from hcompile.guard import Guard
from hcompile.left import LeftDense
from hcompile.operator import attention
from hcompile.plan import Plan
from hcompile.program import SITE_META, InputSpec, Program, bind_tensors
from hcompile.program_check import check_program
from hcompile.refit_operator import refit_linear
from hcompile.safe_operators import safe_operator
from hcompile.site import Site

SCHEMA = 1
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,511}")
_OPERATORS = "add sub mul floordiv truediv mod pow neg pos getitem eq ne lt le gt ge and_ or_".split()
_TORCH_FUNCTIONS = "sym_max sym_min sym_not sym_int sym_float sym_ite sym_sum".split()
_SIZE_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{f"operator.{name}": getattr(operator, name) for name in _OPERATORS},
    **{f"torch.{name}": getattr(torch, name) for name in _TORCH_FUNCTIONS},
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc")},
}
_SIZE_NAMES = {function: name for name, function in _SIZE_FUNCTIONS.items()}
# The last two are how Python's compiler refuses code that torch makes of a graph.
_MALFORMED = (
    *(KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError),
    *(SyntaxError, MemoryError),
)
_CONSTANTS: dict[str, type] = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}


def program_to_json(program: Program) -> dict[str, Any]:
    """Return the JSON form of everything but the tensors.

    Raises:
        UsageError: the graph calls something that the form does not know.
    """
    return {
        "schema": SCHEMA,
        "nodes": [_node_to_json(node) for node in program.graph.graph.nodes],
        "inputs": [spec.to_json() for spec in program.inputs],
        "input_tree": program.input_tree,
        "output_tree": program.output_tree,
        "dims": {name: list(limits) for name, limits in program.dims.items()},
        "sites": [site.to_json() for site in program.sites],
        "left": [left.to_json() for left in program.left],
        "guards": [guard.to_json() for guard in program.guards],
        "plan": None if program.plan is None else program.plan.to_json(),
    }


def program_from_json(value: Any, tensors: Mapping[str, torch.Tensor]) -> Program:
    """Rebuild the program of a JSON form over `tensors`.

    Raises:
        UsageError: the form is of another schema, malformed, or calls what an artifact may not hold.
    """
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise UsageError(
            f"the graph is not of schema {SCHEMA}, another version of hcompile wrote it: write the artifact again"
        )
    try:
        graph = _graph_from_json(value["nodes"], tensors)
        used = {node.target for node in graph.nodes if node.op == "get_attr"}
        bound = {name: tensor for name, tensor in tensors.items() if name in used}
        program = Program(
            graph=bind_tensors(graph, bound),
            tensors=bound,
            inputs=tuple(InputSpec.from_json(spec) for spec in value["inputs"]),
            input_tree=value["input_tree"],
            output_tree=value["output_tree"],
            dims={name: (low, high) for name, (low, high) in value["dims"].items()},
            sites=tuple(Site.from_json(site) for site in value["sites"]),
            left=tuple(LeftDense(**left) for left in value["left"]),
            guards=tuple(Guard(**guard) for guard in value["guards"]),
            plan=None if value["plan"] is None else Plan.from_json(value["plan"]),
        )
        check_program(program)
    except _MALFORMED as error:
        reason = next(iter(str(error).splitlines()), "")
        raise UsageError(
            f"the graph is malformed ({type(error).__name__}: {reason}): write the artifact again"
        ) from error
    return program


def _node_to_json(node: Node) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": node.name, "op": node.op}
    if node.op == "output":
        return {"op": "output", "args": _to_json(node.args)}
    if node.op in ("placeholder", "get_attr"):
        return entry | {"target": str(node.target)}
    if node.op != "call_function":
        raise UsageError(f"the graph holds a {node.op} of {node.target}, which an artifact cannot hold")
    entry |= {"target": _target_name(node.target), "args": _to_json(node.args)}
    if node.kwargs:
        entry["kwargs"] = {name: _to_json(item) for name, item in node.kwargs.items()}
    if SITE_META in node.meta:
        entry["site"] = node.meta[SITE_META]
    return entry


def _target_name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        name = f"{target.namespace}.{target._opname}.{target._overloadname}"
        _operator(name)
        return name
    if target not in _SIZE_NAMES:
        raise UsageError(f"the graph calls {target}, which an artifact cannot hold")
    return _SIZE_NAMES[target]


def _to_json(value: Any) -> Any:
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    for kind, of in _CONSTANTS.items():
        if isinstance(value, of):
            return {kind: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": value.type}
    raise UsageError(
        f"the graph holds the constant {value!r} of {type(value).__name__}, which an artifact cannot hold"
    )


def _graph_from_json(entries: Any, tensors: Mapping[str, torch.Tensor]) -> Graph:
    *entries, last = entries
    graph = Graph()
    nodes: dict[str, Node] = {}
    inputs: set[str] = set()
    for entry in entries:
        name = _checked_name(entry["name"])
        if name in nodes:
            raise ValueError(f"two nodes are named {name!r}")
        node = nodes[name] = graph.create_node(*_call(entry, nodes, tensors), name=name)
        if node.op == "placeholder":
            if node.target in inputs:
                raise ValueError(f"two inputs are named {node.target!r}")
            inputs.add(str(node.target))
        if "site" in entry:
            check_text("site name", entry["site"])
            node.meta[SITE_META] = entry["site"]
    if last["op"] != "output":
        raise ValueError("the last node is no output")
    outputs = tuple(_from_json(last["args"], nodes)[0])
    if not all(isinstance(value, Node) for value in outputs):
        raise ValueError("an output is no node")
    graph.output(outputs)
    graph.lint()
    return graph


def _call(
    entry: Any, nodes: Mapping[str, Node], tensors: Mapping[str, torch.Tensor]
) -> tuple[str, Any, tuple[Any, ...], dict[str, Any]]:
    """Return (op, target, args, kwargs) of a node."""
    op, target = entry["op"], entry["target"]
    if op == "placeholder":
        return op, _checked_name(target), (), {}
    if op == "get_attr":
        if target not in tensors:
            raise ValueError(f"tensor {target!r} is missing")
        return op, _checked_name(target), (), {}
    if op != "call_function":
        raise ValueError(f"node of kind {op!r}")
    kwargs = {_checked_name(key): _from_json(item, nodes) for key, item in entry.get("kwargs", {}).items()}
    function = _SIZE_FUNCTIONS[target] if target in _SIZE_FUNCTIONS else _operator(target)
    return op, function, tuple(_from_json(entry["args"], nodes)), kwargs


def _checked_name(name: Any) -> str:
    """Return a name that torch may paste into the code of a graph."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ValueError(f"name {shown(name)}")
    return name


def _operator(name: Any) -> torch._ops.OpOverload:
    parts = str(name).split(".")
    if len(parts) != 3 or not all(_NAME.fullmatch(part) for part in parts):
        raise UsageError(f"the graph calls {shown(name)}, which an artifact may not hold")
    overload = safe_operator(*parts)
    if overload is None:
        raise UsageError(
            f"the graph calls {name}, which is no operator on tensors alone in torch {torch.__version__}: an artifact "
            "cannot hold it, and one that does needs the torch that wrote it"
        )
    if overload._schema.is_mutable or (parts[0] == "hcompile" and overload not in (attention, refit_linear)):
        raise UsageError(f"the graph calls {name}, which an artifact may not hold")
    return overload


def _from_json(value: Any, nodes: Mapping[str, Node]) -> Any:
    if isinstance(value, list):
        return [_from_json(item, nodes) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, item),) = value.items()
    if kind == "node":
        return nodes[item]
    if kind == "float":
        return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[item]
    if kind == "device":
        return torch.device(_checked_name(item))
    constant = getattr(torch, _checked_name(item), None)
    if not isinstance(constant, _CONSTANTS[kind]):
        raise ValueError(f"{kind} {item!r}")
    return constant
