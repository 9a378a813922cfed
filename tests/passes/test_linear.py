"""Linears through another library compute the same, and only where they may."""

from __future__ import annotations

import pytest
import torch

from hcompile.linear_operator import onednn_linear
from hcompile.passes.linear import LIBRARIES, faster_library, largest_linear, use_library
from hcompile.program import Program
from tests.small_programs import attention_program, odd_inputs, odd_model, odd_program

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def count(program: Program, target: torch._ops.OpOverload) -> int:
    return len(program.graph.graph.find_nodes(op="call_function", target=target))


def test_a_model_gives_the_same_to_rounding(tiny_program: Program) -> None:
    changed = use_library(tiny_program, "onednn")
    assert count(changed, onednn_linear) == count(tiny_program, torch.ops.aten.linear.default) == 15
    assert count(changed, torch.ops.aten.linear.default) == 0
    ids = torch.randint(0, 64, (2, 11), generator=torch.Generator().manual_seed(0))
    found, wanted = (program.run(ids, torch.ones_like(ids))[0] for program in (changed, tiny_program))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_bias_is_kept() -> None:
    program = odd_program(odd_model())
    changed = use_library(program, "onednn")
    assert count(changed, onednn_linear) == 2
    for found, wanted in zip(changed.run(*odd_inputs(2, 5)), program.run(*odd_inputs(2, 5)), strict=True):
        torch.testing.assert_close(found, wanted)


def test_the_default_library_changes_nothing(tiny_program: Program) -> None:
    assert use_library(tiny_program, "default") is tiny_program


def test_bfloat16_is_left_alone(tiny_program: Program) -> None:
    half = {name: t.bfloat16() if t.is_floating_point() else t for name, t in tiny_program.tensors.items()}
    changed = use_library(tiny_program.replace(tensors=half), "onednn")
    assert count(changed, onednn_linear) == 0 and count(changed, torch.ops.aten.linear.default) == 15


def test_an_unknown_library_is_refused_with_the_known_ones(tiny_program: Program) -> None:
    with pytest.raises(ValueError, match="linear library 'blas' is not one of default, onednn"):
        use_library(tiny_program, "blas")


def test_the_faster_library_is_one_that_is_known(tiny_program: Program) -> None:
    assert faster_library(largest_linear(tiny_program), rows=8) in LIBRARIES


def test_without_linears_the_default_stays() -> None:
    assert largest_linear(attention_program()) is None
    assert faster_library(None) == "default"
