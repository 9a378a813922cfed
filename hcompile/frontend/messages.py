"""Parts of one-line messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_MOST_NAMES = 4
_MOST_CHARACTERS = 160


def one_line(error: BaseException) -> str:
    """Return the error's kind and the first line of what it says."""
    text = str(error).strip().partition("\n")[0]
    text = text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def root_cause(error: BaseException) -> str:
    """Return the one-line form of the error that started the chain."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return one_line(error)


def listed(names: Iterable[str]) -> str:
    """Return the first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def kind_of(value: Any) -> str:
    """Return the name of the value's type with its article."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
