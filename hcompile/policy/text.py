"""From text to token ids: a model folder's own tokenizer, or the bytes themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hcompile.errors import EnvironmentFault, UsageError

BYTES = 256
"""Size of the vocabulary of models whose ids are bytes."""

Encoder = Callable[[bytes], list[int]]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")


def encoder_of(folder: Path | None, vocabulary: int | None) -> Encoder:
    """Return how a model reads text.

    Args:
        folder: where its tokenizer may be, None for models without a folder.
        vocabulary: how many ids it knows, None where that is not known.

    Raises:
        UsageError: it has no tokenizer and other than 256 ids.
        EnvironmentFault: it has a tokenizer and transformers is not installed.
    """
    if folder is not None and any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return _tokenizer(folder)
    if vocabulary == BYTES:
        return list
    known = "an unknown number of" if vocabulary is None else vocabulary
    raise UsageError(
        f"text cannot be turned into ids: {folder or 'the model'} has no tokenizer and {known} ids, not {BYTES}; "
        "calibrate with safetensors of the model's inputs"
    )


def _tokenizer(folder: Path) -> Encoder:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise EnvironmentFault(
            f"the tokenizer of {folder} needs transformers: install it with pip install 'hcompile[transformers]'"
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"the tokenizer of {folder} cannot be loaded ({reason}): repair or remove it"
        ) from error

    def encode(text: bytes) -> list[int]:
        ids: list[int] = tokenizer(text.decode(errors="replace"), add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
        return ids

    return encode
