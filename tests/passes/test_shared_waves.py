"""Sines and cosines that several nodes read are kept, with what is made of them alone; others are left as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from hcompile.passes.lower import lower_dense
from hcompile.passes.shared_waves import keep_shared_waves, kept
from hcompile.program import Program
from hcompile.runtime.inductor import CompiledGraph


class Waves(nn.Module):
    """Twice read as a sine, scaled and in another shape; once as a cosine."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        sine = (torch.sin(x) * 2.0).view(x.shape[0], -1)
        return sine * x, (sine + x) * torch.cos(x)


def kept_waves(module: nn.Module, *examples: Tensor, **dynamic: object) -> GraphModule:
    exported = torch.export.export(module, examples, **dynamic)  # type: ignore[arg-type]
    graph = exported.module()
    assert isinstance(graph, GraphModule)
    keep_shared_waves(graph.graph)
    graph.recompile()
    return graph


def test_what_several_nodes_read_is_kept_once_and_nothing_changes() -> None:
    x = torch.randn(5, 7)
    graph = kept_waves(Waves(), x, dynamic_shapes={"x": {0: torch.export.Dim("rows", min=2)}})
    (node,) = graph.graph.find_nodes(op="call_function", target=kept)
    assert node.args[0].target is torch.ops.aten.view.default and len(node.users) == 2
    for given in (x, torch.randn(3, 7)):
        for found, wanted in zip(graph(given), Waves()(given), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_a_rotary_embedding_is_computed_once_for_all_layers(tiny_program: Program) -> None:
    dense = lower_dense(tiny_program)
    graph = dense.edit()
    keep_shared_waves(graph)
    found = graph.find_nodes(op="call_function", target=kept)
    assert len(found) == 2 and all(len(node.users) == len(tiny_program.sites) for node in found)
    waves = [
        node
        for node in graph.nodes
        if node.target in (torch.ops.aten.cos.default, torch.ops.aten.sin.default)
    ]
    assert len(waves) == 2


def test_the_compiled_graph_is_as_right_as_without(tiny_program: Program, monkeypatch: object) -> None:
    ids = torch.randint(0, 64, (2, 33))
    inputs = [ids if spec.name == "input_ids" else torch.ones_like(ids) for spec in tiny_program.inputs]
    dense = lower_dense(tiny_program)
    (found,) = CompiledGraph(dense)(*inputs)
    (wanted,) = dense.graph(*inputs)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
