"""The metric `greedy`: what the dense model writes, and how far the hybrid writes the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import pytest
import torch
from hypothesis import given as given_
from hypothesis import strategies as st

from hcompile.errors import UsageError
from hcompile.patterns import Local
from hcompile.plan import Plan
from hcompile.policy.batches import make_batch
from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface
from hcompile.policy.measure import Comparison
from hcompile.policy.metrics import metric_of
from hcompile.policy.writing import Writer, guessed
from hcompile.site import Site
from tests.policy.tiny_programs import run_plan, tiny_text

PROGRAM = tiny_text()
TEXT = Interface.of(PROGRAM)
GREEDY = metric_of("greedy")
DENSE = Plan.dense(PROGRAM.sites)
COUNT, LENGTH = 64, 160

Model = Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]


def model(plan: Plan) -> Model:
    return lambda inputs: run_plan(PROGRAM, plan, tuple(inputs))


def windows(size: int) -> Plan:
    return Plan.of({site.name: [Local(size, 4)] * site.q_heads for site in PROGRAM.sites})


def given(count: int = 3, length: int = LENGTH) -> list[Document]:
    ids = torch.randint(0, 256, (count, length), generator=torch.Generator().manual_seed(1))
    return [Document(str(i), {"input_ids": row}, origin=f"file {i}") for i, row in enumerate(ids)]


@cache
def written() -> tuple[Document, ...]:
    return tuple(Writer(model(DENSE), TEXT)(given(), COUNT))


def decoded(plan: Plan, prompt: torch.Tensor) -> list[int]:
    """Greedy decoding, one token and one pass after the other."""
    ids = prompt
    for _ in range(COUNT):
        logits = run_plan(PROGRAM, plan, (ids[None], torch.ones_like(ids[None])))[0]
        ids = torch.cat([ids, logits[0, -1].argmax()[None]])
    found: list[int] = ids[len(prompt) :].tolist()
    return found


def test_what_is_written_is_what_greedy_decoding_gives() -> None:
    for row, found in zip(given(), written(), strict=True):
        prompt, end = found.tensors["input_ids"].split([LENGTH - COUNT, COUNT])
        assert torch.equal(prompt, row.tensors["input_ids"][:-COUNT])
        assert end.tolist() == decoded(DENSE, prompt) != row.tensors["input_ids"][-COUNT:].tolist()
        assert (found.asked, found.origin, found.name) == (((LENGTH - COUNT, LENGTH),), row.origin, row.name)


@pytest.mark.parametrize("size", [1, 48, 150])
def test_a_hybrid_is_scored_as_if_it_had_written_itself(size: int) -> None:
    scores = Comparison(model(DENSE), model(windows(size)), TEXT, [GREEDY]).scores(written(), "compare")[0]
    whole = [score for score in scores if score.weight]  # the others were padded
    truth = []
    for document in written():
        prompt, end = document.tensors["input_ids"].split([LENGTH - COUNT, COUNT])
        pairs = zip(decoded(windows(size), prompt), end.tolist(), strict=True)
        truth.append(next((place for place, (mine, its) in enumerate(pairs) if mine != its), COUNT))
    lost = [1 - same / COUNT for same in truth]
    assert whole and all(score.total in lost for score in whole)
    assert sum(lost) > 0 or size == 150
    batch = make_batch(written(), TEXT)
    outputs = model(DENSE)(batch.inputs), model(windows(size))(batch.inputs)
    assert [score.total for score in GREEDY.score(*outputs, batch, TEXT)] == lost


def oracle(batch_ids: torch.Tensor, wrong: Sequence[int] = ()) -> Sequence[torch.Tensor]:
    """Logits that tell each next token, but for some positions of the text."""
    logits = torch.zeros(*batch_ids.shape, 256)
    logits[:, :-1].scatter_(2, batch_ids[:, 1:, None], 1.0)
    for at in wrong:
        logits[:, at - 1] = 0.0
        logits[:, at - 1].scatter_(1, (batch_ids[:, at, None] + 1) % 256, 1.0)
    return (logits,)


@pytest.mark.parametrize(
    ("wrong", "lost"),
    [
        ((), 0.0),
        ((LENGTH - 1,), 1 / 64),
        ((LENGTH - 32, LENGTH - 1), 0.5),
        ((LENGTH - 64,), 1.0),
        ((20,), 0.0),
    ],
)
def test_all_is_lost_from_the_first_token_on_that_differs(wrong: tuple[int, ...], lost: float) -> None:
    batch = make_batch(written(), TEXT)
    assert batch.tokens is not None
    scores = GREEDY.score(oracle(batch.tokens), oracle(batch.tokens, wrong), batch, TEXT)
    assert [(score.total, score.weight) for score in scores] == [(lost, 1.0)] * 3


def test_a_padded_row_has_lost_what_was_written() -> None:
    batch = make_batch(written(), TEXT, padded=True)
    assert batch.tokens is not None
    scores = GREEDY.score(oracle(batch.tokens), oracle(batch.tokens), batch, TEXT)
    assert [score.weight for score in scores] == [1.0, 0.0, 1.0]


def test_the_authors_own_padding_is_no_text() -> None:
    (row,) = given(1, 200)
    for valid in (torch.arange(200) >= 40, torch.arange(200) < 160):
        padded = Document("a", {**row.tensors, "attention_mask": valid.long()})
        (found,) = Writer(model(DENSE), TEXT)([padded], COUNT)
        text = found.tensors["input_ids"][valid]
        assert text[-COUNT:].tolist() == decoded(DENSE, text[:-COUNT])
        assert torch.equal(found.tensors["input_ids"][~valid], row.tensors["input_ids"][~valid])
        batch = make_batch([found], TEXT)
        outputs = model(DENSE)(batch.inputs)
        assert [(s.total, s.weight) for s in GREEDY.score(outputs, outputs, batch, TEXT)] == [(0.0, 1.0)]


def test_a_document_is_written_once_in_as_many_passes_as_tokens_at_most() -> None:
    passes: list[int] = []

    def counted(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        passes.append(len(inputs[0]))
        return model(DENSE)(inputs)

    told: list[tuple[str, int, int | None]] = []
    write = Writer(counted, TEXT, lambda *step: told.append(step))
    first = write(given(), COUNT)
    assert {2, 1} == {*passes} and passes.count(2) <= COUNT and told[-1] == ("write", 3, 3)
    before = len(passes)
    again = write([*given(), Document("twin", given()[0].tensors)], COUNT)
    assert len(passes) == before and again[3].name == "twin"
    assert [each.digest for each in again] == [each.digest for each in (*first, first[0])]


def test_comparisons_that_share_a_writer_write_once() -> None:
    passes: list[int] = []

    def counted(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        passes.append(1)
        return model(DENSE)(inputs)

    compare = partial(Comparison, interface=TEXT, metrics=[GREEDY], write=Writer(counted, TEXT))
    for size in (4, 32):
        before = len(passes)
        compare(model(DENSE), model(windows(size))).scores(given(), "compare")
    assert len(passes) == before


def test_models_and_documents_without_room_are_refused() -> None:
    encoder = Site("layer", 0, 4, 2, 8, 0.3, causal=False)
    with pytest.raises(UsageError, match="metric greedy needs a causal model of tokens"):
        GREEDY.check(TEXT, [encoder])
    with pytest.raises(
        UsageError, match=r"greedy: 0 has 127 tokens, and 64 are .* choose a length of 128 or more"
    ):
        GREEDY.documents(given(length=127), TEXT, None, 0)
    assert len(GREEDY.documents(given(length=128), TEXT, None, 0)) == 3
    with pytest.raises(UsageError, match="budget greedy=2 is above 1"):
        GREEDY.limit(2)

    def last_only(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return (torch.zeros(len(inputs[0]), 256),)

    with pytest.raises(UsageError, match=r"logits of every token, the model's output is \[2, 1, 256\]"):
        Writer(last_only, TEXT)(given(), COUNT)


@pytest.mark.parametrize(
    ("text", "guess"),
    [
        ("one two three one two ", "three one two three"),
        ("abxaby ab", "y aby aby aby aby ab"),
        ("xyz", "zzzz"),
        ("aXbYaXcYbX", "cYbX"),
    ],
)
def test_the_longest_end_that_stood_before_says_what_follows(text: str, guess: str) -> None:
    assert bytes(guessed([*text.encode()], len(guess))).decode() == guess


@given_(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 30))
def test_a_guess_goes_on_from_the_last_longest_match(text: list[int], count: int) -> None:
    found = guessed(text, count)
    assert len(found) == count
    if not count:
        return

    def same(place: int) -> int:
        """Tokens before `place` that are the text's last ones, up to as many as are looked up."""
        return next((n for n in range(32) if n >= place or text[place - 1 - n] != text[-1 - n]), 32)

    longest = max((same(place) for place in range(1, len(text))), default=0)
    expected = text[-1]
    if longest:
        expected = text[max(place for place in range(1, len(text)) if same(place) == longest)]
    assert found[0] == expected
