"""Finding fused attention: `aten.scaled_dot_product_attention`, in every form of its arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

from hcompile.passes.candidate import Candidate
from hcompile.passes.evaluate import operator_name, shape_of

_FUSED_LAYERS = frozenset({"_native_multi_head_attention", "_transformer_encoder_layer_fwd"})
_CHOSEN_KERNELS = (
    "_scaled_dot_product_",
    "_flash_attention_forward",
    "_efficient_attention_forward",
    "flex_attention",
)


def match_sdpa(graph: Graph) -> list[Candidate]:
    """Return every fused attention of a graph."""
    return [
        _candidate(node)
        for node in graph.nodes
        if node.target is torch.ops.aten.scaled_dot_product_attention.default
    ]


def match_closed(graph: Graph) -> list[tuple[Node, str]]:
    """Return nodes that hold an attention nobody can look into, each with the reason."""
    found = []
    for node in graph.nodes:
        name = operator_name(node)
        if name in _FUSED_LAYERS:
            found.append(
                (
                    node,
                    "it is a fused layer of torch (the fast path of inference): export it with gradients enabled",
                )
            )
        elif name.startswith(_CHOSEN_KERNELS):
            found.append(
                (node, f"it is already bound to a kernel ({name}): export it without decompositions")
            )
    return found


def _candidate(node: Node) -> Candidate:
    arguments = _bound(node)
    q, k, v = arguments["query"], arguments["key"], arguments["value"]
    scale = arguments["scale"]
    head_dim = shape_of(q)[-1]
    refusal = None
    if arguments["dropout_p"] != 0.0:
        refusal = f"it has dropout {arguments['dropout_p']}"
    elif isinstance(scale, Node) or not isinstance(head_dim, int):
        refusal = "its scale depends on sizes"
    elif arguments["is_causal"] and arguments["attn_mask"] is not None:
        refusal = "it is causal and has a mask"
    known = isinstance(head_dim, int) and not isinstance(scale, Node)
    return Candidate(
        match="sdpa",
        output=node,
        q=q,
        k=k,
        v=v,
        scale=(head_dim**-0.5 if scale is None else float(scale)) if known else 1.0,
        causal=bool(arguments["is_causal"]),
        mask=arguments["attn_mask"],
        refusal=refusal,
    )


def _bound(node: Node) -> dict[str, Any]:
    """Return an operator call's arguments by name, defaults filled in."""
    assert isinstance(node.target, torch._ops.OpOverload)
    schema = node.target._schema.arguments
    values = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    values |= {argument.name: value for argument, value in zip(schema, node.args, strict=False)}
    return values | dict(node.kwargs)
