"""How a model reads text."""

from __future__ import annotations

from pathlib import Path

import pytest

from hcompile.errors import UsageError
from hcompile.policy.text import encoder_of


def test_256_ids_without_a_tokenizer_are_bytes(tmp_path: Path) -> None:
    assert encoder_of(tmp_path, 256)("é".encode()) == [0xC3, 0xA9]
    assert encoder_of(None, 256)(b"a") == [97]


@pytest.mark.parametrize("vocabulary", [32_000, None])
def test_other_vocabularies_need_a_tokenizer(tmp_path: Path, vocabulary: int | None) -> None:
    with pytest.raises(UsageError, match="no tokenizer"):
        encoder_of(tmp_path, vocabulary)


def test_a_tokenizer_of_the_folder_is_used(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel({"[UNK]": 0, "def": 1, "return": 2}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert encoder_of(tmp_path, 256)(b"return def x") == [2, 1, 0]


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UsageError, match="tokenizer"):
        encoder_of(tmp_path, 256)
