"""The JSON form of a program: real graphs survive it, and nothing else comes out of it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hcompile.errors import UsageError
from hcompile.passes.lower import lower_dense
from hcompile.program import Program
from hcompile.program_json import program_from_json, program_to_json
from hcompile.safe_operators import safe_operator
from tests.small_programs import attention_program, odd_inputs, odd_model, odd_program, returned


@pytest.fixture(scope="module")
def small() -> Program:
    return attention_program()


@pytest.fixture(scope="module")
def document(small: Program) -> dict[str, Any]:
    return program_to_json(small)


def through_text(program: Program) -> Program:
    text = json.dumps(program_to_json(program), allow_nan=False)
    return program_from_json(json.loads(text), program.tensors)


def changed(document: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {**copy.deepcopy(document), **values}


def with_node(document: dict[str, Any], index: int, **values: Any) -> dict[str, Any]:
    copied = copy.deepcopy(document)
    copied["nodes"][index].update(values)
    return copied


def attention_index(document: dict[str, Any]) -> int:
    return next(index for index, node in enumerate(document["nodes"]) if "site" in node)


def assert_same(one: Program, other: Program) -> None:
    for field in ("inputs", "input_tree", "output_tree", "dims", "sites", "left", "guards", "plan"):
        assert getattr(one, field) == getattr(other, field), field
    assert dict(one.tensors) == dict(other.tensors)
    assert program_to_json(one) == program_to_json(other)


def test_a_raised_model_runs_identically(tiny_hybrid: Program) -> None:
    again = through_text(tiny_hybrid)
    assert_same(tiny_hybrid, again)
    ids = torch.randint(0, 64, (2, 21), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(21) >= torch.tensor([[0], [5]])).long()
    assert torch.equal(again.run(ids, mask)[0], tiny_hybrid.run(ids, mask)[0])


def test_a_dense_model_runs_identically(tiny_program: Program) -> None:
    dense = lower_dense(tiny_program, padded=True)
    ids, mask = torch.zeros(1, 9, dtype=torch.int64), torch.ones(1, 9, dtype=torch.int64)
    assert torch.equal(through_text(dense).run(ids, mask)[0], dense.run(ids, mask)[0])


def test_odd_arguments_survive() -> None:
    """Infinities, dtypes, sizes in arithmetic, names of builtins, nested trees."""
    odd = odd_program(odd_model())
    again = through_text(odd)
    assert_same(odd, again)
    inputs = odd_inputs(3, 5)
    for one, other in zip(again.run(*inputs), odd.run(*inputs), strict=True):
        assert torch.equal(one, other)


def test_a_site_without_a_plan_survives(small: Program) -> None:
    assert_same(small, through_text(small))


def test_only_tensors_that_the_graph_names_are_bound(small: Program, document: dict[str, Any]) -> None:
    assert set(program_from_json(document, {**small.tensors, "extra": torch.ones(1)}).tensors) == set(
        small.tensors
    )


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_another_schema_is_named(small: Program, document: dict[str, Any], schema: Any) -> None:
    with pytest.raises(
        UsageError, match="the graph is not of schema 1, another version of hcompile wrote it"
    ):
        program_from_json(changed(document, schema=schema), small.tensors)


OPERATORS = {
    "opens a file": "aten.from_file.default",
    "writes to its argument": "aten.add_.Tensor",
    "writes to out": "aten.add.out",
    "exchanges storages": "aten.set.source_Storage",
    "skips bounds checks": "aten._unsafe_index.Tensor",
    "reads raw memory": "aten._nested_view_from_buffer.default",
    "prints": "aten._print.default",
    "is TorchScript's": "aten.warn.default",
    "is of another namespace": "inductor.accumulate_grad_.default",
    "calls Python": "higher_order.cond.default",
    "is of mkldnn": "mkldnn._linear_pointwise.default",
    "is no operator": "aten.__class__.default",
    "is no overload": "aten.add.op",
    "does not exist": "aten.no_such.default",
    "is a module": "os.system.default",
    "has no overload": "aten.add",
    "is a function": "operator.setitem",
    "is a builtin": "builtins.eval",
    "is no name": 3,
    "is no text": ["aten.add.Tensor"],
    "is the house's own, made later": "hcompile.onednn_linear.default",
    "writes where indices say": "aten.max_pool2d_with_indices_backward.default",
    "trusts lengths": "aten.segment_reduce.default",
    "trusts targets": "aten._ctc_loss.default",
    "trusts sparse indices": "aten._sparse_coo_tensor_with_dims_and_tensors.default",
    "trusts compressed indices": "aten._convert_indices_from_csr_to_coo.default",
    "trusts strides": "aten._reshape_alias.default",
    "can be told to skip bounds checks": "aten._index_put_impl.default",
}
FORWARD = (
    "_scaled_dot_product_flash_attention_for_cpu _softmax _unsafe_view bmm cat convolution embedding gather index "
    "index_put index_select layer_norm linear matmul native_group_norm native_layer_norm scaled_dot_product_attention "
    "scatter split topk"
).split()


@pytest.mark.parametrize("case", OPERATORS)
def test_an_operator_that_does_more_than_compute_is_refused(
    small: Program, document: dict[str, Any], case: str
) -> None:
    index = len(document["nodes"]) - 2
    with pytest.raises(UsageError, match=r"the graph calls|the graph is malformed") as caught:
        program_from_json(with_node(document, index, target=OPERATORS[case]), small.tensors)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FORWARD)
def test_operators_of_forward_passes_stay_allowed(name: str) -> None:
    overloads = getattr(torch.ops.aten, name).overloads()
    assert any(safe_operator("aten", name, overload) for overload in overloads)


@pytest.mark.parametrize(
    "target", [torch.ops.aten.add_.Tensor, torch.ops.aten.from_file.default, eval, torch.relu]
)
def test_what_could_not_be_read_is_not_written(small: Program, target: Any) -> None:
    graph = small.edit()
    returned(graph)[0].target = target
    unfit = small.replace(graph=torch.fx.GraphModule(small.graph, graph))
    with pytest.raises(UsageError, match="the graph calls"):
        program_to_json(unfit)


@pytest.mark.parametrize("constant", [slice(0, 1), {1, 2}, 1j, torch.ones(1)])
def test_a_constant_that_is_no_data_is_not_written(small: Program, constant: Any) -> None:
    graph = small.edit()
    node = returned(graph)[0]
    node.args = (node.args[0], constant)
    with pytest.raises(UsageError, match=r"the graph holds the constant .*, which an artifact cannot hold"):
        program_to_json(small.replace(graph=torch.fx.GraphModule(small.graph, graph)))


@pytest.mark.parametrize("name", ["a b", "", "class", "x" * 600, "é", "a.b", "__import__('os')", 3, None])
def test_a_name_that_torch_could_not_paste_into_code_is_refused(
    small: Program, document: dict[str, Any], name: Any
) -> None:
    place = next(index for index, node in enumerate(document["nodes"]) if node["op"] == "placeholder")
    for values in ({"name": name}, {"target": name}):
        with pytest.raises(UsageError, match="the graph is malformed"):
            program_from_json(with_node(document, place, **values), small.tensors)
    with pytest.raises(UsageError, match="the graph is malformed"):
        program_from_json(with_node(document, -2, kwargs={str(name): 1}), small.tensors)


@pytest.mark.parametrize(
    "name", ["training", "forward", "graph", "recompile", "_buffers", "__class__", "class"]
)
def test_a_tensor_may_not_hide_a_part_of_the_module(
    small: Program, document: dict[str, Any], name: str
) -> None:
    place = next(index for index, node in enumerate(document["nodes"]) if node["op"] == "get_attr")
    tensors = {**small.tensors, name: next(iter(small.tensors.values()))}
    with pytest.raises(UsageError, match="the graph is malformed"):
        program_from_json(with_node(document, place, target=name), tensors)


def test_a_missing_tensor_is_named(small: Program, document: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"malformed \(ValueError: tensor 'hcompile_params_0' is missing\)"):
        program_from_json(document, {})


SITE_CASES: dict[str, tuple[int, Any, str]] = {
    "scale": (8, 0.25, "differ"),
    "causal": (9, False, "differ"),
    "binding": (10, "some kernel", "differ"),
    "blocks": (5, {"node": "q"}, "differ"),
    "offset": (7, 3, "differ"),
    "offset of another type": (7, False, "differ"),
    "parameters": (4, {"node": "q"}, "has no tensor of parameters"),
}


@pytest.mark.parametrize("case", SITE_CASES)
def test_a_site_that_its_node_does_not_fit_is_refused(
    small: Program, document: dict[str, Any], case: str
) -> None:
    place, value, message = SITE_CASES[case]
    index = attention_index(document)
    args = copy.deepcopy(document["nodes"][index]["args"])
    args[place] = value
    with pytest.raises(UsageError, match=f"malformed .*{message}"):
        program_from_json(with_node(document, index, args=args), small.tensors)


@pytest.mark.parametrize(
    "params",
    [
        torch.ones(2, 2, dtype=torch.int64),
        torch.ones(1, 2, dtype=torch.int32),
        torch.ones(4, dtype=torch.int32),
    ],
)
def test_parameters_that_kernels_would_misread_are_refused(
    document: dict[str, Any], params: torch.Tensor
) -> None:
    with pytest.raises(UsageError, match="site layer: parameters are"):
        program_from_json(document, {"hcompile_params_0": params})


def test_parameters_of_another_plan_are_refused(tiny_hybrid: Program) -> None:
    name = "hcompile_params_1"
    tensors = {**tiny_hybrid.tensors, name: tiny_hybrid.tensors[name].flip(0)}
    with pytest.raises(UsageError, match="its parameters are not those of the plan"):
        program_from_json(program_to_json(tiny_hybrid), tensors)


CHANGES: dict[str, dict[str, Any]] = {
    "no nodes": {"nodes": []},
    "no inputs": {"inputs": []},
    "inputs twice": {"input_tree": [[0, 0], {}]},
    "an input too many": {"input_tree": [[0, 1], {}]},
    "a tree of text": {"input_tree": "00"},
    "no output": {"output_tree": []},
    "an output that is not there": {"output_tree": 1},
    "a size that is no number": {"dims": {"s0": ["1", None]}},
    "a limit below the least": {"dims": {"s0": [5, 4]}},
    "no sites": {"sites": []},
    "a guard of no input": {"guards": [{"kind": "binary", "input": "mask"}]},
    "an unknown guard": {"guards": [{"kind": "even", "input": "q"}]},
    "a plan of other sites": {"plan": {"schema": 1, "sites": []}},
}


@pytest.mark.parametrize("case", CHANGES)
def test_parts_that_do_not_fit_each_other_are_refused(
    small: Program, document: dict[str, Any], case: str
) -> None:
    with pytest.raises(UsageError, match=r"the graph is malformed \("):
        program_from_json(changed(document, **CHANGES[case]), small.tensors)


def test_inputs_of_one_name_are_refused(small: Program, document: dict[str, Any]) -> None:
    twice = changed(document, input_tree=[[0, 1], {}])
    place = next(index for index, node in enumerate(twice["nodes"]) if node["op"] == "placeholder")
    twice["nodes"].insert(place, {**twice["nodes"][place], "name": "other"})
    twice["inputs"] *= 2
    with pytest.raises(UsageError, match=r"malformed \(ValueError: two inputs are named"):
        program_from_json(twice, small.tensors)


def test_arguments_that_nest_too_deeply_are_refused_in_one_line(
    small: Program, document: dict[str, Any]
) -> None:
    nested: Any = 1
    for _ in range(300):
        nested = [nested]
    with pytest.raises(UsageError, match="the graph is malformed") as caught:
        program_from_json(with_node(document, -2, args=[nested]), small.tensors)
    assert "\n" not in str(caught.value)


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [prefix, *(path for key, item in items for path in paths(item, (*prefix, key)))]


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.floats()
    | st.sampled_from(
        ["", "q", "output", "aten.mul.Tensor", "aten.add_.Tensor", "nan", "float32", "layer", "cuda:9"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["node", "dtype", "float", "device", "op", "name", "target"]), inner, max_size=2
        )
    ),
    max_leaves=4,
)


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_json_is_refused_in_one_line_or_is_a_program(
    small: Program, document: dict[str, Any], data: st.DataObject
) -> None:
    damaged = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(paths(damaged)[1:]))
        parent: Any = damaged
        for key in path[:-1]:
            parent = parent[key]
        if data.draw(st.booleans()):
            parent[path[-1]] = data.draw(junk)
        elif isinstance(parent, list):
            parent.insert(path[-1], copy.deepcopy(data.draw(st.sampled_from(parent))))
        else:
            del parent[path[-1]]
    try:
        message, written = "", program_to_json(program_from_json(damaged, small.tensors))
    except UsageError as error:
        message, written = str(error), {"schema": 1}
    assert "\n" not in message and written["schema"] == 1
