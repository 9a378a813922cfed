"""Programs: what of an export is kept, what is refused, and that passes change copies only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.export import Dim

from hcompile.errors import UsageError
from hcompile.operator import attention
from hcompile.passes.linear import use_library
from hcompile.passes.lower import drop_key_mask, lower, lower_dense
from hcompile.passes.select import select
from hcompile.patterns import Local
from hcompile.plan import Plan
from hcompile.program import InputSpec, Program
from tests.small_programs import odd_inputs, odd_model, odd_program, program_of, returned


@pytest.fixture(scope="module")
def odd() -> Program:
    return odd_program(odd_model())


def flat(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [
        tensor for item in (value.values() if isinstance(value, dict) else value) for tensor in flat(item)
    ]


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 6), (3, 17)])
def test_it_computes_what_the_model_computes(odd: Program, batch: int, length: int) -> None:
    x, mask, z = odd_inputs(batch, length)
    wanted = flat(odd_model().forward(x, {"mask": mask, "list": [z]}))
    found = odd.run(x, mask, z)
    for index, tensor in zip(flat_indices(odd.output_tree), wanted, strict=True):
        torch.testing.assert_close(found[index], tensor)


def flat_indices(tree: Any) -> list[int]:
    if isinstance(tree, int):
        return [tree]
    return [
        leaf for item in (tree.values() if isinstance(tree, dict) else tree) for leaf in flat_indices(item)
    ]


def test_inputs_and_their_limits_are_the_exports(odd: Program) -> None:
    batch, length = odd.inputs[0].shape[:2]
    assert [spec.name for spec in odd.inputs] == ["input", "more_mask", "more_list_0"]
    assert odd.inputs[1] == InputSpec("more_mask", "bool", (batch, length, 4))
    assert odd.inputs[2] == InputSpec("more_list_0", "float32", (3,))
    assert odd.input_tree == [[0, {"mask": 1, "list": [2]}], {}]
    assert odd.dims == {batch: (1, None), length: (1, 100)}


def test_tied_weights_are_one_tensor(odd: Program) -> None:
    assert [tuple(tensor.shape) for tensor in odd.tensors.values()].count((4, 4)) == 1


def test_weights_are_shared_with_the_model_and_not_copied() -> None:
    model = odd_model()
    pointers = {tensor.data_ptr() for tensor in odd_program(model).tensors.values()}
    assert {parameter.data_ptr() for parameter in model.parameters()} <= pointers


def test_a_least_size_above_two_is_kept() -> None:
    class Add(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x.sum() + y

    sizes = {"x": {0: Dim("x", min=5, max=9)}, "y": {0: Dim("y", min=2)}}
    program = program_of(Add(), (torch.ones(6), torch.ones(4)), sizes)
    assert sorted(program.dims.values(), key=str) == [(1, None), (5, 9)]


class Counter(torch.nn.Module):
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        return x + self.count


class Function(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def own_attention(q: torch.Tensor) -> torch.Tensor:
    params = torch.zeros(1, 2, dtype=torch.int32)
    out: torch.Tensor = attention(q, q, q, None, params, None, None, 7, 1.0, True, "a kernel")
    return out


X = torch.ones(2, 3)
LENGTH = Dim("length", min=1, max=50)
REFUSED: dict[str, tuple[Any, tuple[Any, ...], Any, str]] = {
    "buffer": (Counter(), (X,), None, r"changes its own state \(count\): export it without"),
    "input": (Function(lambda x: x.add_(1)), (X,), None, r"changes its own state \(.*\): export it without"),
    "constant": (
        Function(lambda x: (x, 3)),
        (X,),
        None,
        "returns a constant or a number: return tensors only",
    ),
    "size": (
        Function(lambda x: (x + 1, x.shape[0])),
        (X,),
        (({0: LENGTH},),),
        "returns a constant or a number: return tensors only",
    ),
    "number": (Function(lambda x, n: x * n), (X, 3), None, "is no tensor: pass tensors only"),
    "class": (
        Function(lambda x: torch.return_types.max((x, x))),
        (X,),
        None,
        "returns a max: only tensors in tuples, lists and dicts are understood",
    ),
    "arithmetic": (
        Function(lambda x: x.view(-1, 2)),
        (torch.ones(8),),
        (({0: 2 * LENGTH},),),
        r"is 2\*s\d+: export it with dynamic sizes that stand alone",
    ),
    "attention": (
        Function(own_attention),
        (torch.ones(1, 1, 3, 8),),
        None,
        r"calls hcompile\.attention\.default, which is for the compiler to put into a graph",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_export_that_is_no_function_of_tensors_is_refused_in_one_line(case: str) -> None:
    model, inputs, sizes, message = REFUSED[case]
    with pytest.raises(UsageError, match=message) as caught:
        program_of(model, inputs, sizes)
    assert "\n" not in str(caught.value)


def picture(program: Program) -> tuple[Any, ...]:
    """Return everything a pass could change."""
    nodes = [(node.format_node(), dict(node.meta)) for node in program.graph.graph.nodes]
    tensors = {name: (tensor.data_ptr(), tensor._version) for name, tensor in program.tensors.items()}
    return program.graph.code, nodes, tensors, program.sites, program.plan


PASSES: dict[str, Callable[[Program], Program]] = {
    "select": lambda program: select(
        program, Plan.of({s.name: [Local(4)] * s.q_heads for s in program.sites})
    ),
    "lower": lambda program: lower(program, {program.sites[0].name: "key"}),
    "lower to dense": lower_dense,
    "lower to dense, padded": lambda program: lower_dense(program, padded=True),
    "drop the mask": drop_key_mask,
    "use oneDNN": lambda program: use_library(program, "onednn"),
}


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_leaves_its_input_as_it_was(tiny_hybrid: Program, name: str) -> None:
    before = picture(tiny_hybrid)
    changed = PASSES[name](tiny_hybrid)
    assert picture(tiny_hybrid) == before
    assert picture(changed) != before


def test_dead_code_takes_its_tensors_along(odd: Program) -> None:
    graph = odd.edit()
    graph.output_node().args = (returned(graph)[-1:],)
    smaller = odd.with_graph(graph, output_tree=[0])
    assert not smaller.tensors and len(odd.tensors) == 6
    assert len(smaller.graph.graph.find_nodes(op="placeholder")) == 3


def test_attention_nodes_come_with_their_sites(tiny_program: Program) -> None:
    names = ["model.layers.0.self_attn", "model.layers.1.self_attn"]
    assert [site.name for site, _ in tiny_program.attention_nodes()] == names
    assert [site.name for site, _ in tiny_program.attention_nodes(tiny_program.edit())] == names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"default": "zeros"}, "default 'zeros' is neither None nor 'ones'"),
        ({"dtype": "no_dtype"}, "'no_dtype' is no dtype"),
        ({"dtype": "nn"}, "'nn' is no dtype"),
        ({"shape": (2, -1)}, "size is -1"),
        ({"shape": (2, "")}, "symbol is ''"),
        ({"shape": (2, True)}, "size is True"),
        ({"name": ""}, "input name is ''"),
    ],
)
def test_a_wrong_input_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InputSpec(**{"name": "x", "dtype": "float32", "shape": (2, "s0"), **change})
