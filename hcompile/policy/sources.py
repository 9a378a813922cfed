"""Where calibration data comes from: files, folders, jsonl, safetensors, the standard library, or a function."""

from __future__ import annotations

import json
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from hcompile.errors import UsageError

STDLIB = "stdlib"
"""The source that is always there: the standard library of the running interpreter."""

TEXT_SUFFIXES = frozenset(
    ".c .cc .cpp .css .csv .go .h .hpp .htm .html .java .js .json .jsx .lua .md .php .py .pyi .r .rb .rs .rst .scala "
    ".sh .sql .swift .tex .toml .ts .tsx .txt .xml .yaml .yml".split()
)
_LONGEST_TEXT_BYTES = 16 * 2**20
_NO_LIBRARY = frozenset(
    {"__pycache__", "dist-packages", "idlelib", "lib2to3", "site-packages", "test", "tests"}
)

Content = bytes | Mapping[str, torch.Tensor]
"""Text, or one row of named inputs."""


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a source, read when it is wanted."""

    name: str
    read: Callable[[], Content]


def read_source(source: str) -> list[Item]:
    """Return the entries of a source, in an order that depends on nothing but names and content.

    Args:
        source: "stdlib"; a text file, .jsonl (field "text") or .safetensors (named inputs, rows first); a folder
            with any of them, read recursively; or `package.module:function`, which returns texts or named inputs.

    Raises:
        UsageError: there is nothing, or nothing readable, at the source.
    """
    if source == STDLIB:
        return list(_library(Path(sysconfig.get_paths()["stdlib"])))
    if not source.strip():
        raise UsageError(
            "calibration data '' names nothing: give a file, a folder or package.module:function"
        )
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and _is_data(file))
        items = [item for file in files for item in _file(file)]
    elif path.exists():
        items = _file(path)
    elif ":" in source:
        items = list(_returned(source))
    else:
        raise UsageError(
            f"calibration data {source} does not exist: give a file, a folder or package.module:function"
        )
    if not items:
        raise UsageError(f"calibration data {source} holds no text, .jsonl or .safetensors: add documents")
    return items


def load_function(name: str) -> Callable[..., Any]:
    """Return the function `package.module:function`, looked up in the current folder too.

    Raises:
        UsageError: the module does not import, or has no such function.
    """
    module, _, attribute = name.partition(":")
    search = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"{name} is not found ({error}): give package.module:function") from error
    except Exception as error:  # the user's module raises what it likes
        raise UsageError(
            f"{name}: its module does not import ({type(error).__name__}: {error}): mend it"
        ) from error
    finally:
        sys.path[:] = search
    if not callable(found):
        raise UsageError(f"{name} is a {type(found).__name__}, no function: give package.module:function")
    return found  # type: ignore[no-any-return]


def _library(root: Path) -> Iterator[Item]:
    for path in sorted(root.rglob("*.py")):
        if not _NO_LIBRARY & set(path.relative_to(root).parts):
            yield Item(str(path.relative_to(root)), path.read_bytes)


def _is_data(path: Path) -> bool:
    return path.suffix.lower() in TEXT_SUFFIXES | {".jsonl", ".safetensors"}


def _file(path: Path) -> list[Item]:
    if path.suffix.lower() == ".jsonl":
        return list(_lines(path))
    if path.suffix.lower() == ".safetensors":
        return list(_rows(path))
    return [Item(str(path), lambda: _text(path))]


def _text(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST_TEXT_BYTES)
    except OSError as error:
        raise UsageError(f"calibration text {path} cannot be read: {error.strerror}") from error
    if b"\0" in data:
        raise UsageError(f"calibration text {path} is binary: give text, .jsonl or .safetensors")
    return data


def _lines(path: Path) -> Iterator[Item]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    name = f"{path}:{number}"
                    yield _constant(name, _text_of(line, name))
    except OSError as error:
        raise UsageError(f"calibration text {path} cannot be read: {error.strerror}") from error


def _text_of(line: bytes, name: str) -> bytes:
    try:
        text: bytes = json.loads(line)["text"].encode()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f'{name} is no JSON object with a "text": write one document a line') from error
    return text


def _rows(path: Path) -> Iterator[Item]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"calibration inputs {path} are no safetensors ({error}): write them again"
        ) from error
    counts = {tensor.shape[0] if tensor.dim() else 0 for tensor in tensors.values()}
    if len(counts) != 1 or not min(counts):
        raise UsageError(
            f"calibration inputs {path}: every tensor needs the same number of rows, at least one"
        )
    for row in range(counts.pop()):
        yield _constant(f"{path}:{row}", {name: tensor[row] for name, tensor in tensors.items()})


def _returned(source: str) -> Iterator[Item]:
    function = load_function(source)
    with _of_the_user(source):
        values = function()
    if not isinstance(values, Iterable) or isinstance(values, str | bytes | Mapping):
        raise UsageError(
            f"{source} returned a {type(values).__name__}: return texts, or dicts of input name to tensor"
        )
    with _of_the_user(source):
        values = list(values)
    for number, value in enumerate(values):
        name = f"{source}[{number}]"
        if isinstance(value, str):
            yield _constant(name, value.encode(errors="replace"))
        elif isinstance(value, bytes):
            yield _constant(name, value)
        elif isinstance(value, Mapping) and all(
            isinstance(tensor, torch.Tensor) for tensor in value.values()
        ):
            yield _constant(name, dict(value))
        else:
            raise UsageError(
                f"{name} is a {type(value).__name__}: return texts, or dicts of input name to tensor"
            )


@contextmanager
def _of_the_user(source: str) -> Iterator[None]:
    """Turn what a function of the user's raises into one line."""
    try:
        yield
    except Exception as error:  # it raises what it likes
        raise UsageError(
            f"calibration data {source} failed ({type(error).__name__}: {error}): mend the function"
        ) from error


def _constant(name: str, content: Content) -> Item:
    return Item(name, lambda: content)
