"""Sines and cosines that many nodes read, such as a rotary embedding's, are computed once.

A compiler that fuses what is elementwise computes them again in every kernel that reads them: for each head of each
layer, where one for each token serves all. An operator that it cannot look into keeps them in memory.
"""

from __future__ import annotations

import torch
from torch.fx import Graph, Node

_aten = torch.ops.aten
_WAVES = {_aten.cos.default, _aten.sin.default}
_SMALL_STEPS = {
    *(_aten.mul.Tensor, _aten.mul.Scalar, _aten.neg.default, _aten._to_copy.default, _aten.to.dtype),
    *(_aten.unsqueeze.default, _aten.squeeze.dim, _aten.view.default, _aten.reshape.default),
    *(_aten.transpose.int, _aten.permute.default, _aten.slice.Tensor, _aten.clone.default),
}
"""What may be done to a wave before it is kept: it gets no larger by these."""
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
        last, readers = node, _readers(node)
        while len(readers) == 1 and _reads_alone(readers[0], last):
            last, readers = readers[0], _readers(readers[0])
        if len(readers) > 1 and not any(reader.target is kept for reader in readers):
            with graph.inserting_after(last):
                copy = graph.call_function(kept, (last,))
            copy.meta = dict(last.meta)
            last.replace_all_uses_with(copy, delete_user_cb=lambda user, copy=copy: user is not copy)


def _readers(node: Node) -> list[Node]:
    """Return who reads what a node holds, and not only its sizes, if through a view that repeats it."""
    found = []
    for user in node.users:
        if user.target is _aten.expand.default:
            found += _readers(user)
        elif user.target is not _aten.sym_size.int:
            found.append(user)
    return found


def _reads_alone(user: Node, node: Node) -> bool:
    """Return whether a call takes a small step from `node`, and reads no other tensor."""
    return user.target in _SMALL_STEPS and all(
        each is node or each.target is _aten.sym_size.int for each in user.all_input_nodes
    )
