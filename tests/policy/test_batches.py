"""Batches: padding on the left of every second row, and only there."""

from __future__ import annotations

import torch

from hcompile.policy.batches import batch_of_call, batches, make_batch
from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface
from hcompile.program import InputSpec
from tests.policy.tiny_programs import tiny_text


def token_documents(count: int, length: int) -> list[Document]:
    return [Document(str(i), {"input_ids": torch.arange(length) % 200 + 1 + i}) for i in range(count)]


def test_every_fourth_batch_is_padded_on_the_left_of_its_second_row() -> None:
    interface = Interface.of(tiny_text())
    found = list(batches(token_documents(11, 64), interface))
    assert [len(batch.documents) for batch in found] == [2, 2, 2, 2, 2, 1]
    for index, batch in enumerate(found):
        ids, mask = batch.inputs
        assert batch.valid is not None and torch.equal(batch.valid, mask.bool())
        for row, document in enumerate(batch.documents):
            pad = int((~batch.valid[row]).sum())
            assert (pad > 0) == (row == 1 and index % 4 == 0) and pad <= 4
            assert torch.equal(ids[row, pad:], document.tensors["input_ids"][: 64 - pad])
            assert not ids[row, :pad].any() and bool(batch.valid[row, pad:].all())


def test_profiles_are_not_padded() -> None:
    batch = make_batch(token_documents(2, 64), Interface.of(tiny_text()))
    assert batch.valid is not None and bool(batch.valid.all())
    assert batch.token_counts() == [64, 64]


def test_without_a_mask_nothing_is_padded() -> None:
    interface = Interface((InputSpec("input_ids", "int64", ("b", "s")),), 0, None, 0, True)
    (batch,) = batches(token_documents(2, 64), interface)
    assert batch.valid is None and batch.token_counts() == [64, 64] and bool((batch.inputs[0] > 0).all())


def test_a_fixed_batch_size_is_kept() -> None:
    interface = Interface((InputSpec("input_ids", "int64", (3, 64)),), 0, None, 0, True)
    assert [len(batch.documents) for batch in batches(token_documents(6, 64), interface)] == [3, 3]


def test_a_short_run_fills_a_fixed_batch_and_counts_once() -> None:
    interface = Interface((InputSpec("input_ids", "int64", (3, 64)),), 0, None, 0, True)
    (batch,) = batches(token_documents(2, 64), interface)
    assert tuple(batch.inputs[0].shape) == (3, 64)
    assert len(batch.documents) == 2 and batch.token_counts() == [64, 64]


def test_rows_of_a_model_without_tokens_have_the_length_of_its_axis() -> None:
    interface = Interface((InputSpec("x", "float32", ("b", "s", 8)),), None, None, 0, False, (0, 1))
    batch = make_batch([Document("d", {"x": torch.ones(5, 8)})], interface)
    assert batch.token_counts() == [5]


def test_tokens_with_a_mask_of_their_own_are_left_as_they_are() -> None:
    interface = Interface.of(tiny_text())
    ids, mask = torch.arange(32) + 1, torch.tensor([0] * 4 + [1] * 28)
    rows = [Document(str(i), {"input_ids": ids, "attention_mask": mask}) for i in range(2)]
    (batch,) = batches(rows, interface)
    assert batch.tokens is not None and batch.valid is not None
    assert batch.tokens.tolist() == [ids.tolist()] * 2
    assert batch.valid.tolist() == [mask.bool().tolist()] * 2
    assert batch.token_counts() == [28, 28]


def test_rows_of_other_shapes_start_a_batch() -> None:
    interface = Interface((InputSpec("pixels", "float32", ("b", 3, "n")),), None, None, 0, False)
    documents = [Document(str(n), {"pixels": torch.ones(3, n)}) for n in (4, 4, 5, 4)]
    assert [tuple(batch.inputs[0].shape) for batch in batches(documents, interface)] == [
        (2, 3, 4),
        (1, 3, 5),
        (1, 3, 4),
    ]


def test_named_inputs_bring_their_own_mask() -> None:
    interface = Interface.of(tiny_text())
    mask = torch.tensor([0, 0, 1, 1])
    document = Document("d", {"embeds": torch.ones(4), "attention_mask": mask})
    named = Interface((InputSpec("embeds", "float32", ("b", "s")), interface.inputs[1]), None, 1, 0, True)
    batch = make_batch([document], named, padded=True)
    assert batch.valid is not None and batch.valid.tolist() == [[False, False, True, True]]


def test_the_batch_of_a_call_counts_the_tokens_that_its_mask_leaves() -> None:
    interface = Interface.of(tiny_text())
    ids, mask = torch.arange(64).reshape(2, 32), torch.ones(2, 32, dtype=torch.int64)
    mask[1, :5] = 0
    batch = batch_of_call((ids, mask), 2, interface, "a call")
    assert batch.token_counts() == [32, 27] and batch.length == 32
    assert batch.tokens is not None and torch.equal(batch.tokens, ids)
    assert [document.name for document in batch.documents] == ["a call"] * 2


def test_the_batch_of_a_call_without_tokens_has_the_length_of_its_axis() -> None:
    interface = Interface((InputSpec("x", "float32", ("b", "s", 8)),), None, None, 0, False, (0, 1))
    assert batch_of_call((torch.ones(3, 5, 8),), 3, interface, "a call").token_counts() == [5, 5, 5]
