"""Sines and cosines that several nodes read are kept, with what is made of them alone; others are left as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim
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


def kept_waves(module: nn.Module, x: Tensor, dynamic: dict[int, Dim] | None = None) -> GraphModule:
    graph = torch.export.export(module, (x,), dynamic_shapes={"x": dynamic}).module()
    assert isinstance(graph, GraphModule)
    keep_shared_waves(graph.graph)
    graph.recompile()
    return graph


def test_what_several_nodes_read_is_kept_once_and_nothing_changes() -> None:
    x = torch.randn(5, 7)
    graph = kept_waves(Waves(), x, {0: Dim("rows", min=2)})
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


def test_a_compiled_graph_computes_what_the_graph_does(tiny_program: Program) -> None:
    ids = torch.randint(0, 64, (2, 33))
    inputs = [ids if spec.name == "input_ids" else torch.ones_like(ids) for spec in tiny_program.inputs]
    dense = lower_dense(tiny_program)
    (found,) = CompiledGraph(dense)(*inputs)
    (wanted,) = dense.graph(*inputs)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


class Parts(nn.Module):
    """Waves whose readers are parts of one split, or made larger first, or a wave's wave."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        first, second = torch.cos(x).split([3, 4], 1)
        wide = torch.sin(x).unsqueeze(1).expand(-1, 6, -1)
        again = torch.sin(torch.cos(x + 1))
        return first * 2, second * 3, wide * 2, wide * 3, again * 2, again * 3


def test_parts_are_left_a_wave_is_kept_before_it_is_made_larger_and_only_once() -> None:
    x = torch.randn(5, 7)
    graph = kept_waves(Parts(), x)
    found = graph.graph.find_nodes(op="call_function", target=kept)
    assert [node.args[0].target for node in found] == [
        torch.ops.aten.unsqueeze.default,
        torch.ops.aten.sin.default,
    ]
    for given, wanted in zip(graph(x), Parts()(x), strict=True):
        torch.testing.assert_close(given, wanted, rtol=0, atol=0)
