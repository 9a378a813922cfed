"""Small programs that tests of the program and of its JSON form share."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import Dim, export

from hcompile.operator import attention
from hcompile.passes.sites import settle_sites
from hcompile.patterns import UNBOUNDED
from hcompile.program import SITE_META, Program


def returned(graph: torch.fx.Graph) -> tuple[Any, ...]:
    """Return the nodes that a graph returns."""
    nodes: Any = graph.output_node().args[0]
    return tuple(nodes)


class Odd(torch.nn.Module):
    """Nested inputs and outputs, tied weights, constants, sizes in arithmetic, an input named like a builtin."""

    kept: torch.Tensor
    unsaved: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.second = torch.nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("kept", torch.arange(4.0))
        self.register_buffer("unsaved", torch.full((4,), 0.5), persistent=False)

    def forward(self, input: torch.Tensor, more: dict[str, Any]) -> dict[str, Any]:
        length = input.shape[1]
        x = self.second(self.first(input)) + self.kept * self.unsaved + torch.tensor([1.0, 2.0, 3.0, 4.0])
        masked = x.masked_fill(more["mask"], float("-inf")).softmax(-1).to(torch.bfloat16)
        return {"sum": x.sum(1) / (length + 1), "parts": [masked, (x, more["list"][0] * 2)]}


def odd_inputs(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    x = torch.randn(batch, length, 4, generator=generator)
    mask = torch.zeros(batch, length, 4, dtype=torch.bool)
    mask[:, :, 0] = True
    return x, mask, torch.randn(3, generator=generator)


def odd_model() -> Odd:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Odd().eval()


def odd_program(model: Odd) -> Program:
    x, mask, z = odd_inputs(2, 6)
    sizes = {0: Dim("batch", min=1), 1: Dim("length", min=1, max=100)}
    return program_of(model, (x, {"mask": mask, "list": [z]}), (sizes, {"mask": sizes, "list": [None]}))


def program_of(
    model: torch.nn.Module, inputs: tuple[Any, ...], sizes: Any = None, *, with_attention: bool = False
) -> Program:
    exported = export(model, inputs, dynamic_shapes=sizes, strict=False)
    return Program.from_exported(exported, with_attention=with_attention)


class _Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.params = torch.tensor([(UNBOUNDED, 0)] * 2, dtype=torch.int32)

    def forward(self, q: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = attention(q, q, q, None, self.params, None, None, 0, 0.5, True, "")
        return out + 1.0


def attention_program() -> Program:
    """Return a program of one site `layer` with 2 heads of 8."""
    sizes = {"q": {2: Dim("length", min=1, max=64)}}
    program = program_of(_Layer(), (torch.zeros(1, 2, 6, 8),), sizes, with_attention=True)
    graph = program.edit()
    for node in graph.nodes:
        if node.target is attention:
            node.meta[SITE_META] = "layer"
    return settle_sites(program, graph, {"layer": None})
