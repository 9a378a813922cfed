"""Sines and cosines that many nodes read, such as a rotary embedding's, are computed once.

A compiler that fuses what is elementwise computes them again in every kernel that reads them: for each head of each
layer, where one for each token serves all. An operator that it cannot look into keeps them in memory.
"""

from __future__ import annotations

import torch
from torch.fx import Graph, Node

_aten = torch.ops.aten
_WAVES = {_aten.cos.default, _aten.sin.default}
_library = torch.library.Library("hcompile", "FRAGMENT")
_library.define(
    "kept(Tensor x) -> Tensor", tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
)


def _clone(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


_library.impl("kept", _clone, "CompositeExplicitAutograd")
torch.library.register_fake("hcompile::kept", _clone, lib=_library)
kept = torch.ops.hcompile.kept.default


def keep_shared_waves(graph: Graph) -> None:
    """Keep what first has several readers of all that is made of a sine or cosine, in place."""
    for node in [node for node in graph.nodes if node.target in _WAVES]:
        last = node
        while len(last.users) == 1 and _reads_alone(user := next(iter(last.users)), last):
            last = user
        if len(last.users) > 1:
            with graph.inserting_after(last):
                copy = graph.call_function(kept, (last,))
            copy.meta = dict(last.meta)
            last.replace_all_uses_with(copy, delete_user_cb=lambda user, copy=copy: user is not copy)


def _reads_alone(user: Node, node: Node) -> bool:
    """Return whether a call reads no tensor but `node`: a scaling, a cast, another shape."""
    return user.op == "call_function" and all(
        each is node or each.target is _aten.sym_size.int for each in user.all_input_nodes
    )
