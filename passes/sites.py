"""Putting attention nodes into a graph and keeping the program's list of sites in step with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.fx import Graph, Node

from hcompile.operator import attention
from hcompile.passes.evaluate import concrete, operator_name
from hcompile.passes.layout import MOVES
from hcompile.plan import own_pattern
from hcompile.program import SITE_META, Program
from hcompile.site import Site

_aten = torch.ops.aten

MATCH_META = "hcompile_match"
"""Key of `node.meta` that holds how a raised attention was found."""

# Positions of the operator's arguments that passes read and change.
Q, K, V, KEY_MASK, HEAD_PARAMS, Q_OFFSET, SCALE, CAUSAL, BINDING, MAPS, FAR_HEADS, WIDENING = (
    0,
    1,
    2,
    3,
    4,
    *range(7, 14),
)


def insert_attention(
    graph: Graph,
    before: Node,
    q: Node,
    k: Node,
    v: Node,
    key_mask: Node | None,
    scale: float,
    causal: bool,
    name: str,
) -> Node:
    """Insert an attention node named `name`; `settle_sites` gives it its parameters."""
    with graph.inserting_before(before):
        q, k, v = (_with_rows_together(graph, operand) for operand in (q, k, v))
        node = graph.call_function(attention, (q, k, v, key_mask, None, None, None, 0, scale, causal, ""))
    node.meta = {SITE_META: name}
    if "nn_module_stack" in before.meta:
        node.meta["nn_module_stack"] = before.meta["nn_module_stack"]
    batch, heads, length, head_dim = q.meta["val"].shape
    node.meta["val"] = q.meta["val"].new_empty((batch, length, heads, head_dim)).transpose(1, 2)
    return node


def _with_rows_together(graph: Graph, operand: Node) -> Node:
    """Return the operand, copied if its last dimension is not contiguous, as the operator wants it."""
    value = operand.meta["val"]
    if isinstance(stride := value.stride(-1), int) and stride == 1:
        return operand
    copy = graph.call_function(_aten.clone.default, (operand,), {"memory_format": torch.contiguous_format})
    copy.meta["val"] = value.contiguous()
    return copy


def settle_sites(
    program: Program, graph: Graph, windows: Mapping[str, int | None], **changes: Any
) -> Program:
    """Return the program of `graph`: its sites in execution order, each with the parameters of the model's own pattern.

    Args:
        windows: the model's own sliding window of each site by name.
    """
    sites: list[Site] = []
    tensors = dict(program.tensors)
    for node in [node for node in graph.nodes if SITE_META in node.meta]:
        site = _site_of(node, len(sites), windows[node.meta[SITE_META]])
        tensor = f"hcompile_params_{site.layer}"
        tensors[tensor] = torch.tensor([own_pattern(site).params()] * site.q_heads, dtype=torch.int32)
        params = arguments(node)[HEAD_PARAMS]
        if params is None or params.target != tensor:
            with graph.inserting_before(node):
                node.update_arg(HEAD_PARAMS, graph.get_attr(tensor))
        sites.append(site)
    return program.with_graph(graph, tensors, sites=tuple(sites), **changes)


def arguments(node: Node) -> tuple[Any, ...]:
    """Return the arguments of an attention node, to be read at the positions above."""
    return node.args


def takes(node: Node, place: int) -> bool:
    """Return whether a node takes something at a position."""
    return arguments(node)[place : place + 1] not in ((), (None,))


def give(node: Node, place: int, *values: Node) -> None:
    """Let a node take values from a position on; what it has before and behind them stays, and gaps take nothing."""
    before = arguments(node)[:place]
    behind = arguments(node)[place + len(values) :]
    node.args = (*before, *(None,) * (place - len(before)), *values, *behind)


def tensor_name(node: Node, place: int) -> str:
    """Return the name of the tensor that a node takes at a position."""
    argument: Any = node.args[place]
    return str(argument.target)


def free_name(name: str, taken: Mapping[str, Any]) -> str:
    """Return `name`, or `name#2`, `name#3`, ... if a module's attention runs more than once."""
    count, candidate = 1, name
    while candidate in taken:
        count += 1
        candidate = f"{name}#{count}"
    return candidate


def module_name(node: Node) -> str:
    """Return the name of the module whose code made `node`, or the node's own where that is the root."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [path for path, _ in stack.values()]
    return names[-1] if names and names[-1] else node.name


def strip_wrapper(program: Program, prefix: str) -> Program:
    """Return the program with `prefix` (a wrapper's attribute and a dot) taken off the names of its modules."""
    graph = program.edit()
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if stack:
            shorter = {key: (path.removeprefix(prefix), kind) for key, (path, kind) in stack.items()}
            node.meta["nn_module_stack"] = shorter
    return program.with_graph(graph)


def accept_strides(node: Node) -> None:
    """Let what follows take the operator's memory `[B, S, H, D]`: views become reshapes, copies to that order go."""
    for user in list(_moved_from(node)):
        if user.target in (_aten.view.default, _aten._unsafe_view.default):
            user.target = _aten.reshape.default
        elif _is_plain_copy(user) and _is_row_major(user.all_input_nodes[0], node):
            user.replace_all_uses_with(user.all_input_nodes[0])


def _moved_from(node: Node) -> Iterator[Node]:
    for user in list(node.users):
        if operator_name(user) in MOVES and user.all_input_nodes[0] is node:
            yield user
            yield from _moved_from(user)


def _is_plain_copy(node: Node) -> bool:
    return node.target is _aten.clone.default and node.kwargs.get("memory_format") in (
        None,
        torch.contiguous_format,
    )


def _is_row_major(node: Node, output: Node) -> bool:
    """Whether `node` turns the operator's output to `[B, S, H, D]`, the order it has in memory."""
    arguments: tuple[Any, ...] = node.args
    if not arguments or arguments[0] is not output:
        return False
    if node.target is _aten.permute.default:
        return list(arguments[1]) == [0, 2, 1, 3]
    return node.target is _aten.transpose.int and {axis % 4 for axis in arguments[1:]} == {1, 2}


def _site_of(node: Node, layer: int, window: int | None) -> Site:
    args = arguments(node)
    q_shape, k_shape = args[Q].meta["val"].shape, args[K].meta["val"].shape
    q_heads, kv_heads, head_dim = (int(concrete(size, {})) for size in (q_shape[1], k_shape[1], q_shape[3]))
    return Site(node.meta[SITE_META], layer, q_heads, kv_heads, head_dim, args[SCALE], args[CAUSAL], window)
