"""Sizes that are 0, or far from their symbol, at the small sizes that passes try: left out, and never a crash."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.source import ConstantSource
from torch._subclasses import FakeTensorMode
from torch.fx import Graph
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from hcompile.passes.evaluate import NotUnderstood, concrete
from hcompile.passes.layout import Probe, find_heads
from hcompile.passes.mask_probes import Shape, sizes_far, sizes_near

ANY = (1, None)


def traced(*hints: int) -> torch.Tensor:
    """Return a fake tensor whose sizes are symbols."""
    context: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * len(hints))
    mode = FakeTensorMode(shape_env=ShapeEnv())
    return mode.from_tensor(torch.empty(hints), symbolic_context=context, source=ConstantSource("x"))


def test_sizes_without_rows_are_not_tried() -> None:
    batch, length = traced(5, 700).shape
    dims = {str(batch): ANY, str(length): ANY}
    shape = Shape(batch, 1, length // 8)
    assert sorted({concrete(shape.length, sizes) for sizes in sizes_near(shape, dims)}) == [1, 2, 4]
    with pytest.raises(NotUnderstood, match="is 0 at every size that is tried"):
        sizes_near(Shape(batch * (length // 128), 1, 128), dims)


def test_a_length_that_is_a_part_of_its_symbol_still_gets_past_the_masks_numbers() -> None:
    batch, length = traced(5, 700).shape
    dims = {str(batch): ANY, str(length): ANY}
    graph = Graph()
    near = graph.call_function(torch.ops.aten.lt.Scalar, (graph.placeholder("x"), 300))
    (sizes,) = sizes_far([near], 1, Shape(batch, 1, length // 8), {}, dims)
    assert concrete(length // 8, sizes) > 301
    (sizes,) = sizes_far([near], 1, Shape(batch, 1, length // 8), {}, dims | {str(length): (1, 80)})
    assert concrete(length // 8, sizes) == 10


def test_heads_of_a_tensor_that_is_empty_when_probed_are_not_told_apart() -> None:
    x = traced(5, 700)
    batch, length = x.shape
    operand = Graph().placeholder("q")
    operand.meta["val"] = x.new_empty((batch * (length // 128), 4, 128, 8))
    probe = Probe({}, ({str(batch): 2, str(length): 3}, {str(batch): 3, str(length): 2}))
    assert find_heads(operand, probe, scaled=False) == []
