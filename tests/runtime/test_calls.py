"""How a compiled module is called: arguments, errors that name them, and outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hcompile.errors import UsageError
from hcompile.program import Program
from hcompile.runtime.calls import Outputs, Signature
from tests.small_programs import odd_inputs, odd_model, odd_program

IDS = torch.zeros(2, 5, dtype=torch.int64)


@pytest.fixture(scope="module")
def text(tiny_program: Program) -> Signature:
    return Signature(tiny_program)


@pytest.fixture(scope="module")
def nested() -> Signature:
    return Signature(odd_program(odd_model()))


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((IDS,), {}),
        ((), {"input_ids": IDS}),
        ((IDS, None), {}),
        ((), {"input_ids": IDS, "attention_mask": None}),
    ],
)
def test_a_mask_may_be_left_out(text: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert text.flatten(args, kwargs) == [IDS, None]


def test_arguments_go_by_place_or_by_name(text: Signature) -> None:
    mask = torch.ones_like(IDS)
    for args, kwargs in (
        ((IDS, mask), {}),
        ((IDS,), {"attention_mask": mask}),
        ((), {"attention_mask": mask, "input_ids": IDS}),
    ):
        ids, found = text.flatten(args, kwargs)
        assert ids is IDS and found is mask


def test_nested_arguments_are_flattened_in_the_exports_order(nested: Signature) -> None:
    x, mask, z = odd_inputs(2, 3)
    assert nested.names == ("input", "more_mask", "more_list_0")
    for more in ({"mask": mask, "list": [z]}, {"list": (z,), "mask": mask}):
        flat = nested.flatten((x, more), {})
        assert flat[0] is x and flat[1] is mask and flat[2] is z
    flat = nested.flatten((x,), {"more_mask": mask, "more_list_0": z})
    assert flat[0] is x and flat[1] is mask and flat[2] is z


WRONG: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "missing": ((), {}, "argument 'input_ids' is missing: pass a tensor of shape [any, any]"),
    "too many": ((IDS, IDS, IDS), {}, "the model takes 2 arguments (input_ids, attention_mask), got 3"),
    "unknown": (
        (IDS,),
        {"labels": IDS},
        "the model takes no argument 'labels' (it takes input_ids, attention_mask)",
    ),
    "twice": ((IDS,), {"input_ids": IDS}, "argument 'input_ids' is given twice"),
    "no tensor": (([1, 2],), {}, "argument 'input_ids' is a list: pass a tensor"),
    "dtype": (
        (IDS.int(),),
        {},
        "argument 'input_ids' is torch.int32, the model was exported with torch.int64",
    ),
    "rank": ((IDS[0],), {}, "argument 'input_ids' has shape [5], wanted [any, any]"),
    "disagreement": (
        (IDS, torch.ones(2, 4, dtype=torch.int64)),
        {},
        "arguments 'input_ids' and 'attention_mask' disagree on a size: 5 and 4",
    ),
    "too long": (
        (torch.zeros(1, 513, dtype=torch.int64),),
        {},
        "argument 'input_ids' has a size of 513: the export allows sizes from 1 to 512",
    ),
    "empty": (
        (torch.zeros(0, 5, dtype=torch.int64),),
        {},
        "argument 'input_ids' has a size of 0: the export allows sizes of at least 1",
    ),
    "another device": ((IDS.to("meta"),), {}, "argument 'input_ids' is on meta: move it to cpu"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_is_told_in_one_line(text: Signature, case: str) -> None:
    args, kwargs, message = WRONG[case]
    with pytest.raises(UsageError) as caught:
        text.flatten(args, kwargs)
    assert str(caught.value) == message


def test_a_fixed_size_is_checked(nested: Signature) -> None:
    x, mask, z = odd_inputs(2, 3)
    with pytest.raises(UsageError, match=r"argument 'more_list_0' has shape \[2\], wanted \[3\]"):
        nested.flatten((x, {"mask": mask, "list": [z[:2]]}), {})


@pytest.mark.parametrize(
    "more", [{}, [1], {"mask": 1}, {"mask": 1, "list": []}, {"mask": 1, "list": 3}, None]
)
def test_another_structure_is_refused_with_the_exported_one(nested: Signature, more: Any) -> None:
    message = (
        r"(argument 1 is a \w+, wanted tensors as in (\{'mask': tensor, 'list': \[tensor\]\}|\[tensor\]))$"
    )
    with pytest.raises(UsageError, match=message):
        nested.flatten((odd_inputs(2, 3)[0], more), {})


def test_outputs_are_built_as_the_model_nests_them(nested: Signature) -> None:
    parts = tuple(torch.full((1,), float(number)) for number in range(4))
    outputs = nested.unflatten(parts)
    assert isinstance(outputs, Outputs) and list(outputs) == ["sum", "parts"]
    assert outputs.sum is outputs["sum"]
    masked, (x, doubled) = outputs.parts
    assert {id(part) for part in parts} == {id(outputs.sum), id(masked), id(x), id(doubled)}


def test_outputs_name_what_they_have() -> None:
    outputs = Outputs(logits=1)
    assert outputs.logits == 1 and not hasattr(outputs, "loss")
    with pytest.raises(AttributeError, match=r"the model has no output 'loss' \(it has logits\)"):
        _ = outputs.loss
