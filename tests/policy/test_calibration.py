"""Documents of one length, and three splits that share none."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from hcompile.errors import UsageError
from hcompile.policy.calibration import Counts, Splits, gather, load_splits
from hcompile.policy.certificate import LEAST_TO_CERTIFY
from hcompile.policy.interface import Interface
from hcompile.policy.sources import Item
from hcompile.policy.text import encoder_of
from hcompile.program import InputSpec
from tests.policy.tiny_programs import tiny_text

BYTES = encoder_of(None, 256)


def text_interface() -> Interface:
    return Interface.of(tiny_text())


def write_texts(folder: Path, count: int, length: int) -> str:
    folder.mkdir(exist_ok=True)
    for index in range(count):
        (folder / f"{index:03}.txt").write_text((f"{folder.name} {index} " * length)[:length])
    return str(folder)


def items_of(*texts: bytes) -> list[Item]:
    return [Item(str(index), partial(bytes, text)) for index, text in enumerate(texts)]


def digests(splits: Splits) -> list[str]:
    return [document.digest for document in (*splits.profile, *splits.repair, *splits.certify)]


def test_splits_share_no_document(tmp_path: Path) -> None:
    splits = load_splits(write_texts(tmp_path / "t", 130, 40), text_interface(), BYTES, 32)
    assert (len(splits.profile), len(splits.repair), len(splits.certify)) == (6, 24, 48)
    assert len(set(digests(splits))) == 78


def test_splits_depend_on_the_seed_and_on_nothing_else(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "t", 60, 40)
    first, again, other = (load_splits(source, text_interface(), BYTES, 32, seed=seed) for seed in (1, 1, 2))
    assert digests(first) == digests(again) != digests(other)
    assert first.digest == again.digest != other.digest


def test_copies_of_one_text_count_once(tmp_path: Path) -> None:
    source = tmp_path / "t"
    write_texts(source, 50, 40)
    for path in list(source.iterdir()):
        (source / f"copy_{path.name}").write_bytes(path.read_bytes() + b"only the end differs")
    splits = load_splits(str(source), text_interface(), BYTES, 32)
    assert len(digests(splits)) == len(set(digests(splits))) == 50


@given(st.integers(0, 300), st.integers(0, 60))
def test_fewer_documents_keep_enough_to_certify(available: int, fit: int) -> None:
    counts = Counts(fit=fit).within(available)
    if counts is None:
        assert available < 4 + 12 + LEAST_TO_CERTIFY
    else:
        assert counts.total <= max(available, 0)
        assert counts.certify >= LEAST_TO_CERTIFY and counts.repair >= 12 and counts.profile >= 4
        assert 0 <= counts.fit <= fit


def test_too_little_text_says_how_much_is_needed(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "t", 20, 40)
    with pytest.raises(UsageError, match="20 different documents of 32 tokens and 48 are needed"):
        load_splits(source, text_interface(), BYTES, 32)


def test_empty_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UsageError, match="0 different documents"):
        load_splits(str(tmp_path), text_interface(), BYTES, 32)


def test_verify_names_the_data_of_the_certificate_alone(tmp_path: Path) -> None:
    calib, verify = write_texts(tmp_path / "c", 40, 40), write_texts(tmp_path / "v", 64, 40)
    splits = load_splits(calib, text_interface(), BYTES, 32, verify=verify)
    assert len(splits.certify) == 48 and len(splits.repair) + len(splits.profile) == 30
    assert all(bytes(d.tensors["input_ids"].tolist()).startswith(b"v ") for d in splits.certify)
    assert (splits.source, splits.domain) == (calib, verify)


@pytest.mark.parametrize(("texts", "fit"), [(200, 18), (80, 15), (48, 0)])
def test_documents_to_fit_to_serve_for_nothing_else(tmp_path: Path, texts: int, fit: int) -> None:
    source = write_texts(tmp_path / "c", texts, 40)
    splits = load_splits(source, text_interface(), BYTES, 32, counts=Counts(fit=18))
    used = [*digests(splits), *(document.digest for document in splits.fit)]
    assert len(splits.fit) == fit and len(set(used)) == len(used) == min(texts, Counts(fit=18).total)


def test_documents_to_fit_to_come_from_the_calibration_beside_data_of_the_certificate(tmp_path: Path) -> None:
    calib, verify = write_texts(tmp_path / "c", 200, 40), write_texts(tmp_path / "v", 64, 40)
    splits = load_splits(calib, text_interface(), BYTES, 32, verify=verify, counts=Counts(fit=18))
    assert (len(splits.profile), len(splits.repair), len(splits.certify), len(splits.fit)) == (6, 24, 48, 18)


def test_a_document_of_the_calibration_never_certifies(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "c", 120, 40)
    splits = load_splits(source, text_interface(), BYTES, 32, verify=source)
    assert len(set(digests(splits))) == len(digests(splits))


def test_long_enough_texts_come_first_whole_and_unjoined() -> None:
    documents = gather(items_of(b"a" * 9, b"b" * 3, b"c" * 25), text_interface(), BYTES, 8, 2, 0)
    assert {document.unit for document in documents} == {"whole"}
    assert sorted(bytes(d.tensors["input_ids"].tolist()) for d in documents) == [b"a" * 8, b"c" * 8]


def test_short_texts_are_joined_and_long_ones_cut_only_when_needed() -> None:
    long = bytes(range(65, 65 + 25))
    documents = gather(items_of(b"b" * 3, b"", b"c" * 3, long), text_interface(), BYTES, 8, 99, 0)
    texts = [(document.unit, bytes(document.tensors["input_ids"].tolist())) for document in documents]
    assert texts[0] == ("whole", long[:8])
    assert texts[1][0] == "joined" and sorted(texts[1][1]) == sorted(b"bbb\n\nccc")
    assert texts[2:] == [("piece", long[8:16]), ("piece", long[16:24])]


def test_parts_of_one_text_are_in_one_split(tmp_path: Path) -> None:
    for index in range(40):
        (tmp_path / f"{index}.txt").write_bytes(
            bytes(random.Random(index).randbytes(4 * 32)).hex().encode()[:130]
        )
    splits = load_splits(str(tmp_path), text_interface(), BYTES, 32)
    origins = [
        {document.origin for document in part} for part in (splits.profile, splits.repair, splits.certify)
    ]
    assert (len(splits.profile), len(splits.repair), len(splits.certify)) == (6, 24, 48)
    assert not origins[0] & origins[1] and not origins[1] & origins[2] and not origins[0] & origins[2]


def test_pieces_come_from_every_text_in_turn() -> None:
    texts = items_of(*(bytes([65 + text]) * 8 + bytes(range(40 * text, 40 * text + 16)) for text in range(3)))
    documents = gather(texts, text_interface(), BYTES, 8, 6, 0)
    assert [document.unit for document in documents] == ["whole"] * 3 + ["piece"] * 3
    assert len({document.origin for document in documents[3:]}) == 3


def test_one_long_text_is_cut_into_neighbouring_parts() -> None:
    path_text = bytes(random.Random(0).randbytes(32 * 80))
    documents = gather(items_of(path_text), text_interface(), BYTES, 32, 78, 0)
    assert len(documents) == 78 and {document.origin for document in documents} == {"0"}


def test_named_inputs_must_be_the_models(tmp_path: Path) -> None:
    pixels = Interface((InputSpec("pixels", "float32", ("b", 3, 8)),), None, None, 0, False)
    path = tmp_path / "rows.safetensors"
    for tensors, complaint in (
        ({"pixel": torch.ones(50, 3, 8)}, r"missing \['pixels'\]"),
        ({"pixels": torch.ones(50, 4, 8)}, r"float32 \[4, 8\]"),
        ({"pixels": torch.ones(50, 3, 8, dtype=torch.float64)}, "float64"),
        ({"pixels": torch.ones(50, 3)}, r"\[3\]"),
    ):
        save_file(tensors, path)
        with pytest.raises(UsageError, match=complaint):
            load_splits(str(path), pixels, None, 0)
    save_file({"pixels": torch.randn(50, 3, 8)}, path)
    assert len(digests(load_splits(str(path), pixels, None, 0))) == 50


def test_text_for_a_model_without_text_is_refused(tmp_path: Path) -> None:
    pixels = Interface((InputSpec("pixels", "float32", ("b", 3, 8)),), None, None, 0, False)
    with pytest.raises(UsageError, match="takes no text"):
        load_splits(write_texts(tmp_path / "t", 3, 40), pixels, None, 32)


def test_mixed_data_is_refused(tmp_path: Path) -> None:
    write_texts(tmp_path / "t", 60, 40)
    save_file({"input_ids": torch.ones(60, 8, dtype=torch.int64)}, tmp_path / "t" / "rows.safetensors")
    with pytest.raises(UsageError, match="mixes"):
        load_splits(str(tmp_path / "t"), text_interface(), BYTES, 32)


def test_counts_that_cannot_certify_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 32"):
        Counts(certify=31)
