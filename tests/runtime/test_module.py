"""Which of its graphs a compiled module takes, and that each gives the right answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from hcompile.errors import UsageError
from hcompile.guard import Guard
from hcompile.passes.lower import drop_key_mask, lower_dense
from hcompile.program import Program
from hcompile.runtime.crossover import Crossover, Timing
from hcompile.runtime.inductor import CompiledGraph
from hcompile.runtime.module import CompiledModule, Lowered

SHORT = torch.arange(2 * 9).reshape(2, 9) % 64
LONG = torch.arange(2 * 40).reshape(2, 40) % 64


class Eager(CompiledGraph):
    """A graph that runs without a compilation and notes that it ran."""

    def __init__(self, program: Program, name: str, taken: list[str]) -> None:
        super().__init__(program)
        self.name, self.taken = name, taken

    def __call__(self, *flat_inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.taken.append(self.name)
        with torch.no_grad():
            return self._program.run(*flat_inputs)


@dataclass
class Watched:
    module: CompiledModule
    taken: list[str]

    def graph_of(self, *args: Any, **kwargs: Any) -> str:
        self.module(*args, **kwargs)
        return self.taken.pop()


def watched(
    program: Program, crossover: Crossover, *, original: bool = False, axis: tuple[int, int] | None = (0, 1)
) -> Watched:
    taken: list[str] = []
    dense, padded = lower_dense(program), lower_dense(program, padded=True)
    lowered = Lowered(
        hybrid=Eager(program, "hybrid", taken),
        hybrid_unpadded=Eager(drop_key_mask(program), "unpadded", taken),
        dense=Eager(dense, "dense", taken),
        padded=Eager(padded, "padded", taken),
        original=Eager(padded, "original", taken) if original else None,
    )
    return Watched(CompiledModule(program, lowered, crossover, axis), taken)


@pytest.fixture(scope="module")
def text(tiny_hybrid: Program) -> Watched:
    return watched(tiny_hybrid, Crossover.from_length(32))


def left_padded(ids: torch.Tensor) -> torch.Tensor:
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    return mask


def test_from_the_crossover_on_a_hybrid_graph_takes_every_call(text: Watched) -> None:
    assert text.graph_of(LONG) == "unpadded"
    assert text.graph_of(LONG[:, :32]) == "unpadded"
    assert text.graph_of(LONG, torch.ones_like(LONG)) == "hybrid"
    assert text.graph_of(LONG, attention_mask=left_padded(LONG)) == "hybrid"


def test_short_calls_take_the_dense_graph_and_pay_for_a_mask_only_where_there_is_padding(
    text: Watched,
) -> None:
    assert text.graph_of(LONG[:, :31]) == "dense"
    assert text.graph_of(SHORT) == "dense"
    assert text.graph_of(SHORT, torch.ones_like(SHORT)) == "dense"
    assert text.graph_of(SHORT, left_padded(SHORT)) == "padded"


def test_without_a_crossover_no_call_is_hybrid(tiny_hybrid: Program) -> None:
    assert watched(tiny_hybrid, Crossover()).graph_of(LONG) == "dense"


def test_a_call_goes_by_the_crossover_of_its_batch(tiny_hybrid: Program) -> None:
    text = watched(tiny_hybrid, Crossover(((1, None), (2, 32), (4, 16))))
    assert [text.graph_of(ids) for ids in (LONG[:1], LONG, LONG[:, :31])] == ["dense", "unpadded", "dense"]
    assert text.graph_of(LONG[:, :16].repeat(2, 1)) == "unpadded"


def test_a_fixed_length_is_the_measured_one(tiny_hybrid: Program) -> None:
    lost, won = Timing(9, 1.0, 2.0, batch=2), Timing(9, 2.0, 1.0)
    text = watched(tiny_hybrid, Crossover.of([won, lost]), axis=None)
    assert [text.graph_of(ids) for ids in (SHORT[:1], SHORT)] == ["unpadded", "dense"]


def test_without_a_length_the_crossover_decides_alone(tiny_hybrid: Program) -> None:
    assert watched(tiny_hybrid, Crossover.from_length(32), axis=None).graph_of(SHORT) == "unpadded"
    assert watched(tiny_hybrid, Crossover(), axis=None).graph_of(SHORT) == "dense"


def test_a_mask_that_must_be_given_may_pad_at_any_call(tiny_hybrid: Program) -> None:
    required = tuple(spec for spec in tiny_hybrid.inputs if spec.default is None)
    (mask,) = (spec for spec in tiny_hybrid.inputs if spec.default is not None)
    required += (type(mask)(mask.name, mask.dtype, mask.shape),)
    program = watched(tiny_hybrid.replace(inputs=required), Crossover.from_length(32))
    assert program.graph_of(SHORT, torch.ones_like(SHORT)) == "padded"


def test_inputs_that_break_a_guard_take_the_original_graph(tiny_hybrid: Program) -> None:
    guarded = tiny_hybrid.replace(guards=(Guard("binary", "attention_mask"),))
    text = watched(guarded, Crossover.from_length(32), original=True)
    assert text.graph_of(LONG) == "unpadded"
    assert text.graph_of(LONG, left_padded(LONG)) == "hybrid"
    assert text.graph_of(LONG, torch.full_like(LONG, 2)) == "original"
    assert text.graph_of(SHORT, left_padded(SHORT) * 3) == "original"


def test_guards_want_a_way_out(tiny_hybrid: Program) -> None:
    guarded = tiny_hybrid.replace(guards=(Guard("binary", "attention_mask"),))
    with pytest.raises(ValueError, match="a program with guards wants its original graph"):
        watched(guarded, Crossover.from_length(32))


def test_a_program_without_a_plan_is_no_module(tiny_program: Program, tiny_lowered: Lowered) -> None:
    with pytest.raises(ValueError, match="wants a program with a plan: run select first"):
        CompiledModule(tiny_program, tiny_lowered, Crossover.from_length(1), (0, 1))


@pytest.mark.parametrize("ids", [SHORT, LONG])
@pytest.mark.parametrize("padded", [True, False])
def test_every_graph_gives_the_right_answer(
    tiny_hybrid: Program, tiny_program: Program, tiny_module: CompiledModule, ids: torch.Tensor, padded: bool
) -> None:
    mask = left_padded(ids) if padded else torch.ones_like(ids)
    found = tiny_module(input_ids=ids, attention_mask=mask).logits if padded else tiny_module(ids).logits
    wanted = (tiny_hybrid if ids is LONG else tiny_program).run(ids, mask)[0]
    torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()], rtol=1e-4, atol=1e-5)
    assert not found.requires_grad


def test_a_mask_left_out_is_one_of_ones(text: Watched) -> None:
    for ids in (SHORT, LONG):
        torch.testing.assert_close(text.module(ids).logits, text.module(ids, torch.ones_like(ids)).logits)
    text.taken.clear()


def test_a_wrong_call_runs_no_graph(text: Watched) -> None:
    for wrong in (torch.zeros(1, 513, dtype=torch.int64), SHORT.float(), SHORT[0]):
        with pytest.raises(UsageError):
            text.module(wrong)
    assert not text.taken


def test_warming_up_runs_the_graphs_that_calls_of_these_lengths_take(text: Watched) -> None:
    text.module.warmup([9, 40], batch=2)
    assert text.taken == ["dense", "unpadded", "hybrid"]
    text.taken.clear()


@pytest.mark.parametrize("length", [0, 513])
def test_warming_up_for_a_length_that_the_export_does_not_allow_is_refused(
    text: Watched, length: int
) -> None:
    with pytest.raises(UsageError, match=f"has a size of {length}: the export allows sizes from 1 to 512"):
        text.module.warmup([length])


class Noted:
    """Stands in for a shadow: notes what it is shown."""

    def __init__(self) -> None:
        self.observed: list[tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]] = []
        self.warmed: list[torch.Size] = []

    def observe(self, inputs: list[torch.Tensor], outputs: tuple[torch.Tensor, ...]) -> None:
        self.observed.append((inputs, outputs))

    def warm(self, inputs: list[torch.Tensor]) -> None:
        self.warmed.append(inputs[0].shape)


def test_a_shadow_is_shown_hybrid_calls_only(tiny_hybrid: Program) -> None:
    guarded = tiny_hybrid.replace(guards=(Guard("binary", "attention_mask"),))
    text, noted = watched(guarded, Crossover.from_length(32), original=True), Noted()
    text.module.shadow = noted  # type: ignore[assignment]
    found = {text.graph_of(ids, mask) for ids in (SHORT, LONG) for mask in (left_padded(ids), ids * 0 + 2)}
    assert found == {"padded", "original", "hybrid"} and len(noted.observed) == 1
    logits = text.module(LONG).logits
    (_, ((ids, mask), outputs)) = noted.observed
    assert ids is LONG and bool(mask.all()) and outputs[0] is logits
    text.taken.clear()


def test_a_shadow_is_warmed_up_too_and_counts_no_made_up_calls(tiny_hybrid: Program) -> None:
    text, noted = watched(tiny_hybrid, Crossover.from_length(32)), Noted()
    text.module.shadow = noted  # type: ignore[assignment]
    text.module.warmup([40], batch=2)
    assert noted.warmed == [torch.Size([2, 40])] and not noted.observed


def test_without_a_shadow_a_call_asks_for_it_once(tiny_hybrid: Program) -> None:
    """One attribute and one branch are all that a call pays for what it does not use."""
    asked: list[str] = []

    class Asked(CompiledModule):
        def __getattribute__(self, name: str) -> Any:
            if "shadow" in name:
                asked.append(name)
            return super().__getattribute__(name)

    text = watched(tiny_hybrid, Crossover.from_length(32))
    text.module.__class__ = Asked
    text.module(LONG)
    assert asked == ["shadow"] and text.module.shadow is None
    text.taken.clear()


def test_the_module_says_what_it_is(tiny_module: CompiledModule, tiny_hybrid: Program) -> None:
    assert tiny_module.plan == tiny_hybrid.plan
    assert tiny_module.crossover == Crossover.from_length(32) and tiny_module.certificate is None
