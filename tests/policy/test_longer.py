"""Longer documents come of texts that the plan's choice has not seen, and of nothing else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hcompile.errors import UsageError
from hcompile.policy.calibration import Splits, load_splits
from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface
from hcompile.policy.longer import longer_documents
from hcompile.policy.text import encoder_of
from tests.policy.test_calibration import write_texts
from tests.policy.tiny_programs import tiny_text

BYTES = encoder_of(None, 256)
PLANNED, LENGTH = 32, 64


def interface() -> Interface:
    return Interface.of(tiny_text())


def splits_of(source: str, verify: str | None = None) -> Splits:
    return load_splits(source, interface(), BYTES, PLANNED, verify=verify)


def longer(splits: Splits, length: int = LENGTH, count: int = 48) -> tuple[tuple[Document, ...], str]:
    return longer_documents(splits, interface(), BYTES, length, planned=PLANNED, count=count, seed=0)


def content(document: Document) -> bytes:
    return bytes(document.tensors["input_ids"].tolist())


def test_no_text_that_the_choice_has_read_is_cut(tmp_path: Path) -> None:
    splits = splits_of(write_texts(tmp_path / "t", 130, 70))
    found, warning = longer(splits)
    read = {document.origin for document in (*splits.profile, *splits.repair)}
    assert len(found) == 48 and not warning
    assert not read & {document.origin for document in found}
    assert {(document.unit, len(content(document))) for document in found} == {("whole", LENGTH)}
    assert [document.digest for document in longer(splits)[0]] == [document.digest for document in found]


def test_copies_of_what_the_choice_has_read_are_left_out(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "t", 80, 200)
    splits = splits_of(source)
    texts = {Path(document.origin): document for document in (*splits.profile, *splits.repair)}
    for path in texts:
        path.with_name(f"copy_{path.name}").write_bytes(path.read_bytes() + b"only the end differs")
    found, _ = longer(splits, count=999)
    read = {content(document) for document in texts.values()}
    assert found and not any(content(document)[:PLANNED] in read for document in found)
    assert not any("copy_" in document.name for document in found)


def test_short_texts_are_not_joined_and_long_ones_are_cut_into_pieces(tmp_path: Path) -> None:
    calib, verify = write_texts(tmp_path / "c", 60, 40), write_texts(tmp_path / "v", 60, 40)
    for index in range(3):
        Path(verify, f"long{index}.txt").write_text(
            "".join(chr(65 + (i * i + index) % 50) for i in range(200))
        )
    found, warning = longer(splits_of(calib, verify))
    assert [document.unit for document in found] == ["whole"] * 3 + ["piece"] * 6
    assert "has only 9 unseen documents of 64 tokens; what they lose is stated, but" in warning


def test_too_few_long_texts_say_what_to_do(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "t", 100, 40)
    with pytest.raises(
        UsageError, match=r"has 0 documents of 64 tokens that .* 2 are needed: add longer texts"
    ):
        longer(splits_of(source))
    (tmp_path / "one.txt").write_bytes(bytes(random.Random(0).choices(range(32, 127), k=9000)))
    one = splits_of(str(tmp_path / "one.txt"))
    with pytest.raises(UsageError, match=r"name them with --verify$"):
        longer(one)


def test_named_inputs_are_as_long_as_they_are(tmp_path: Path) -> None:
    ids = torch.randint(0, 256, (90, PLANNED), generator=torch.Generator().manual_seed(0))
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    save_file(rows, tmp_path / "rows.safetensors")
    with pytest.raises(UsageError, match="holds named inputs, which are as long as they are"):
        longer(splits_of(str(tmp_path / "rows.safetensors")))
