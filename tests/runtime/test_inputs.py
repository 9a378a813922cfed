"""Made-up inputs fit the program they are made for."""

from __future__ import annotations

import torch

from hcompile.program import InputSpec, Program
from hcompile.runtime.calls import Signature
from hcompile.runtime.inputs import batch_axis, batch_limits, length_axis, limits, made_up_inputs
from tests.small_programs import attention_program, odd_model, odd_program


def test_the_length_is_the_size_that_attention_runs_over(tiny_program: Program) -> None:
    assert length_axis(tiny_program) == (0, 1)
    assert limits(tiny_program, (0, 1)) == (1, 512)
    assert length_axis(attention_program()) == (0, 2)


def test_without_attention_there_is_no_length() -> None:
    assert length_axis(odd_program(odd_model())) is None
    assert limits(odd_program(odd_model()), None) == (1, None)


def test_the_batch_is_the_first_free_size_besides_the_length(tiny_program: Program) -> None:
    assert batch_axis(tiny_program, (0, 1)) == (0, 0)
    assert batch_limits(tiny_program, (0, 1)) == (1, None)
    symbol = str(tiny_program.inputs[0].shape[0])
    few = tiny_program.replace(dims={**tiny_program.dims, symbol: (2, 8)})
    assert batch_limits(few, (0, 1)) == (2, 8)
    length = str(tiny_program.inputs[0].shape[1])
    positions = InputSpec("position_ids", "int64", (1, length))
    assert batch_axis(tiny_program.replace(inputs=(positions, *tiny_program.inputs)), (0, 1)) == (1, 0)


def test_a_batch_that_the_export_fixed_is_the_only_one(tiny_program: Program) -> None:
    assert batch_axis(attention_program(), (0, 2)) == (0, 0)
    assert batch_limits(attention_program(), (0, 2)) == (1, 1)
    fixed = InputSpec("x", "float32", (5, 9))
    assert batch_limits(tiny_program.replace(inputs=(fixed,)), None) == (5, 5)


def test_a_program_whose_inputs_have_one_axis_has_no_batch(tiny_program: Program) -> None:
    alone = tiny_program.replace(inputs=(InputSpec("x", "float32", (9,)),))
    assert batch_axis(alone, None) is None and batch_limits(alone, None) == (1, 1)


def test_inputs_are_ones_where_a_default_stands_in_and_ids_within_the_vocabulary(
    tiny_program: Program,
) -> None:
    ids, mask = made_up_inputs(tiny_program, (0, 1), 3, 400, torch.Generator().manual_seed(0))
    assert ids.shape == mask.shape == (3, 400)
    assert int(ids.min()) == 0 and int(ids.max()) == 63
    assert bool((mask == 1).all()) and mask.dtype == torch.int64
    Signature(tiny_program).check([ids, mask])


def test_a_seed_decides_the_inputs(tiny_program: Program) -> None:
    one, other = (
        made_up_inputs(tiny_program, (0, 1), 1, 50, torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(one[0], other[0])


def test_every_dtype_is_made_up() -> None:
    program = odd_program(odd_model())
    x, mask, z = made_up_inputs(program, None, 2, 9)
    assert x.shape == (2, 2, 4) and x.dtype == torch.float32 and float(x.std()) > 0
    assert mask.dtype == torch.bool and bool(mask.all())
    assert z.shape == (3,)
    Signature(program).check([x, mask, z])


def test_a_dtype_narrower_than_float32_is_made_up_too() -> None:
    program = odd_program(odd_model())
    narrow = InputSpec("input", "bfloat16", program.inputs[0].shape)
    assert made_up_inputs(program.replace(inputs=(narrow,)), None, 1, 1)[0].dtype == torch.bfloat16
