"""The metric `recall`: its own documents, and what counts as lost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from hcompile.errors import UsageError
from hcompile.policy.batches import make_batch
from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface
from hcompile.policy.measure import Comparison
from hcompile.policy.metrics import metric_of
from hcompile.site import Site
from tests.policy.tiny_programs import tiny_text

TEXT = Interface.of(tiny_text())
RECALL = metric_of("recall")


def given(count: int = 4, length: int = 600) -> list[Document]:
    ids = torch.randint(97, 123, (count, length), generator=torch.Generator().manual_seed(0))
    return [Document(str(i), {"input_ids": row}, origin=f"file {i // 2}") for i, row in enumerate(ids)]


def oracle(wrong: Sequence[int] = ()) -> Sequence[torch.Tensor]:
    """Logits that tell each next token of the planted documents, but for some positions of the text."""
    batch = make_batch(documents(), TEXT)
    assert batch.tokens is not None
    logits = torch.zeros(*batch.tokens.shape, 256)
    logits[:, :-1].scatter_(2, batch.tokens[:, 1:, None], 1.0)
    for at in wrong:
        logits[:, at - 1] = 0.0
    return (logits,)


def documents() -> Sequence[Document]:
    return RECALL.documents(given(), TEXT, list, 0)


def lost(dense: Sequence[torch.Tensor], hybrid: Sequence[torch.Tensor]) -> list[tuple[float, float]]:
    batch = make_batch(documents(), TEXT)
    return [(score.total, score.weight) for score in RECALL.score(dense, hybrid, batch, TEXT)]


def test_a_document_is_made_of_each_one_by_the_seed() -> None:
    rows, found = given(), documents()
    assert [document.origin for document in found] == [document.origin for document in rows]
    assert all(document.asked for document in found)
    assert [document.digest for document in found] == [document.digest for document in documents()]
    others = RECALL.documents(rows, TEXT, list, 1)
    assert {document.digest for document in found}.isdisjoint(document.digest for document in others)
    assert not rows[0].asked


def test_padding_of_the_authors_own_is_left_alone() -> None:
    (row,) = given(1, 900)
    mask = (torch.arange(900) >= 200).long()
    (found,) = RECALL.documents([Document("a", {**row.tensors, "attention_mask": mask})], TEXT, list, 0)
    assert torch.equal(found.tensors["input_ids"][:200], row.tensors["input_ids"][:200])
    for start, stop in found.asked:
        value = bytes(found.tensors["input_ids"][200 + start : 200 + stop].tolist())
        assert (
            value.isalpha()
            and f"== '{value.decode()}'" in bytes(found.tensors["input_ids"].tolist()).decode()
        )


def test_a_pair_is_lost_where_any_token_of_its_value_is() -> None:
    pairs = [float(len(document.asked)) for document in documents()]
    assert lost(oracle(), oracle()) == [(0.0, count) for count in pairs]
    start, stop = documents()[0].asked[0]
    assert lost(oracle(), oracle([stop - 1]))[0] == (1.0, pairs[0])
    assert lost(oracle(), oracle([start - 1, stop]))[0] == (0.0, pairs[0])


def test_what_the_dense_model_does_not_recall_cannot_be_lost() -> None:
    start, _ = documents()[0].asked[0]
    (total, weight), *_ = lost(oracle([start]), oracle())
    assert (total, weight) == (0.0, len(documents()[0].asked) - 1.0)
    blank = (torch.zeros_like(oracle()[0]),)
    scores = RECALL.score(blank, oracle(), make_batch(documents(), TEXT), TEXT)
    with pytest.raises(
        UsageError, match="there are no planted pairs that the dense model recalls in 4 documents"
    ):
        RECALL.statistic.estimate(scores)


def test_a_padded_row_is_asked_for_what_is_left_of_it() -> None:
    rows = documents()
    batch = make_batch(rows, TEXT, padded=True)
    assert batch.valid is not None and batch.tokens is not None
    logits = torch.zeros(*batch.tokens.shape, 256)
    logits[:, :-1].scatter_(2, batch.tokens[:, 1:, None], 1.0)
    left = batch.valid.sum(1).tolist()
    scores = RECALL.score((logits,), (logits,), batch, TEXT)
    assert min(left) < 600
    assert [score.weight for score in scores] == [
        sum(stop <= count for _, stop in document.asked) for document, count in zip(rows, left, strict=True)
    ]


def test_metrics_of_the_same_documents_share_a_pass() -> None:
    calls: list[int] = []

    def model(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        calls.append(len(inputs[0]))
        logits = torch.zeros(*inputs[0].shape, 256)
        logits[:, :-1].scatter_(2, inputs[0][:, 1:, None], 1.0)
        return (logits,)

    told: list[tuple[int, int | None]] = []
    comparison = Comparison(
        model,
        model,
        TEXT,
        [metric_of(name) for name in ("kl", "recall", "top1")],
        encode=list,
        progress=lambda stage, done, total: told.append((done, total)),
    )
    kl, recall, top1 = comparison.scores(given(), "compare")
    # Two batches of two rows, of the documents and of those with pairs, by both models.
    assert len(calls) == 8 and told[0] == (0, 8) and told[-1] == (8, 8)
    assert len(kl) == len(recall) == len(top1) == 4
    assert sum(score.weight for score in recall) > 0 == sum(score.total for score in recall)


def test_models_and_documents_without_pairs_are_refused() -> None:
    bidirectional = Site("a", 0, 4, 2, 8, 0.35, causal=False)
    with pytest.raises(UsageError, match="causal"):
        RECALL.check(TEXT, [bidirectional])
    with pytest.raises(UsageError, match="plants text"):
        RECALL.documents(given(), TEXT, None, 0)
    with pytest.raises(UsageError, match="documents of 60 tokens have no room"):
        RECALL.documents(given(length=60), TEXT, list, 0)
    with pytest.raises(UsageError, match=r"write the least share of pairs recalled, such as recall=0\.98"):
        RECALL.limit(98)
