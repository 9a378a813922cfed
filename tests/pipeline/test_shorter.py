"""Shorter lengths are measured on the beginnings of texts, and of nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from hcompile.errors import UsageError
from hcompile.pipeline.shorter import check_widen, shortened
from hcompile.policy.calibration import Splits
from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface
from hcompile.program import Program


def text(name: str, length: int = 128) -> Document:
    return Document(name, {"input_ids": torch.arange(length)})


def named(name: str) -> Document:
    ids = torch.arange(128)
    return Document(name, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})


SPLITS = Splits((text("a"),), (text("b"),), (text("c"),), "texts", "texts")


def test_documents_are_cut_to_each_length_but_the_longest(tiny_program: Program) -> None:
    found = shortened((text("a"), text("b")), Interface.of(tiny_program), (32, 64, 128))
    assert {
        length: [each.tensors["input_ids"].tolist() for each in cut] for length, cut in found.items()
    } == {length: [list(range(length))] * 2 for length in (32, 64)}
    assert [each.origin for each in found[32]] == ["a", "b"]


@pytest.mark.parametrize(
    "wrong", [named("x"), text("x", 100)], ids=["more than ids", "shorter than the longest length"]
)
@pytest.mark.parametrize("split", ["profile", "repair", "certify"])
def test_what_cannot_be_cut_is_refused(tiny_program: Program, split: str, wrong: Document) -> None:
    interface = Interface.of(tiny_program)
    check_widen(SPLITS, interface, (64, 128))
    changed: dict[str, Any] = {split: (text("d"), wrong)}
    with pytest.raises(UsageError, match="with text of 128 tokens, not named inputs"):
        check_widen(replace(SPLITS, **changed), interface, (64, 128))
    assert shortened((text("d"), wrong), interface, (64, 128)) == {}


def test_no_documents_are_refused(tiny_program: Program) -> None:
    with pytest.raises(UsageError, match="--widen measures on the beginnings of texts: pass --calib"):
        check_widen(None, Interface.of(tiny_program), (64, 128))
