"""Lowering: attention nodes are bound to kernels, or turned into torch's own dense attention for comparison."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch.fx import Graph, Node

from hcompile.operator import bound_attention
from hcompile.passes.refit import MASK, drop_refit, refit_nodes
from hcompile.passes.sites import BINDING, KEY_MASK, K, Q, V, arguments
from hcompile.program import Program
from hcompile.site import Site

_aten = torch.ops.aten


def lower(program: Program, bindings: Mapping[str, str]) -> Program:
    """Return the program to run, without gradients: each site's kernel bound by its key; sites without one keep the
    reference.

    Args:
        bindings: key of the bound kernel (`operator.bind`) by site name.
    """
    graph = program.edit()
    for site, node in program.attention_nodes(graph):
        node.target = bound_attention
        node.update_arg(BINDING, bindings.get(site.name, ""))
    return program.with_graph(graph)


def drop_key_mask(program: Program) -> Program:
    """Return the program for calls without padding."""
    graph = program.edit()
    for _, node in program.attention_nodes(graph):
        node.update_arg(KEY_MASK, None)
    for node in refit_nodes(graph):
        node.update_arg(MASK, None)
    return program.with_graph(graph)


def lower_dense(program: Program, *, padded: bool = False, only: Collection[str] | None = None) -> Program:
    """Return the model's own attention through torch's SDPA: no plan, nothing learnt, K and V not repeated.

    Without padding and without a window of the model's own, no mask is made.

    Args:
        padded: take padding as it comes, with one mask for all nodes of a kind; else every key counts as valid.
        only: names of the sites to lower, None for all; the others stay sites.
    """
    graph = program.edit()
    drop_refit(graph)
    masks: dict[tuple[Any, ...], Node] = {}
    for site, node in program.attention_nodes(graph):
        if only is not None and site.name not in only:
            continue
        q, k, v, key_mask = (arguments(node)[place] for place in (Q, K, V, KEY_MASK))
        key_mask = key_mask if padded else None
        mask = None
        if key_mask is not None or site.window is not None:
            kind = (site.causal, site.window, key_mask, _length(q, key_mask))
            if kind not in masks:
                masks[kind] = _mask(graph, node, site, q, key_mask, program.device)
            mask = masks[kind]
        named: dict[str, Any] = {"scale": site.scale, "enable_gqa": site.group > 1}
        with graph.inserting_before(node):
            dense = graph.call_function(
                _aten.scaled_dot_product_attention.default,
                (q, k, v, mask, 0.0, site.causal and mask is None),
                named,
            )
        if "val" in node.meta:
            dense.meta = {"val": node.meta["val"]}
        node.replace_all_uses_with(dense)
        graph.erase_node(node)
    rest = tuple(site for site in program.sites if only is not None and site.name not in only)
    return program.with_graph(graph, sites=rest, plan=None)


def _length(q: Node, key_mask: Node | None) -> str | Node | None:
    """Return what nodes of one length share, as far as that is known."""
    if "val" in q.meta:
        return str(q.meta["val"].shape[2])
    # A graph that was read from data carries no shapes: a shared key mask `[B, S]` tells the length, else nothing does.
    return q if key_mask is None else None


def _mask(
    graph: Graph, before: Node, site: Site, q: Node, key_mask: Node | None, device: torch.device
) -> Node:
    """Insert the mask of what a head of `site` sees by itself, bool `[B or 1, 1, S, S]`; q is `[B, Hq, S, D]`."""

    def call(target: torch._ops.OpOverload, *arguments: Node | int | float) -> Node:
        return graph.call_function(target, arguments)

    with graph.inserting_before(before):
        length = call(_aten.sym_size.int, q, 2)
        key = graph.call_function(_aten.arange.default, (length,), {"device": device})
        distance = call(_aten.sub.Tensor, call(_aten.unsqueeze.default, key, 1), key)
        seen = call(_aten.ge.Scalar, distance, 0) if site.causal else None
        if site.window is not None:
            near = call(_aten.lt.Scalar, call(_aten.abs.default, distance), site.window)
            seen = near if seen is None else call(_aten.logical_and.default, seen, near)
        if key_mask is not None:
            valid = call(_aten.unsqueeze.default, call(_aten.unsqueeze.default, key_mask, 1), 1)
            seen = valid if seen is None else call(_aten.logical_and.default, seen, valid)
        assert seen is not None
        return seen
