"""Checks that values read from files share: exact types, ranges, and text that any store can hold."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

LARGEST = 2**53
"""Integers beyond this lose digits in JSON readers that know doubles only."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_int(name: str, value: Any, least: int = 0, most: int = LARGEST) -> None:
    """Raise ValueError unless `value` is an int (no bool) from `least` to `most`."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is {shown(value)}, wanted an integer from {least} to {most}")


def check_number(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a finite float that is not negative."""
    if type(value) is not float or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} is {shown(value)}, wanted a finite float, not negative")


def check_bool(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is True or False."""
    if type(value) is not bool:
        raise ValueError(f"{name} is {shown(value)}, wanted true or false")


def check_text(name: str, value: Any, most: int = 512, *, empty: bool = False) -> None:
    """Raise ValueError unless `value` is text of at most `most` characters, without NUL and surrogates."""
    if type(value) is not str or len(value) > most or not (value or empty):
        raise ValueError(f"{name} is {shown(value)}, wanted text of {0 if empty else 1} to {most} characters")
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{name} is {shown(value)}, wanted text without NUL and lone surrogates")


def check_sha256(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a sha256 in 64 lower-case hex digits."""
    if type(value) is not str or not _SHA256.fullmatch(value):
        raise ValueError(f"{name} is {shown(value)}, wanted the 64 hex digits of a sha256")


def check_object(name: str, value: Any, fields: Iterable[str]) -> dict[str, Any]:
    """Return `value` if it is a JSON object with exactly these fields, else raise ValueError."""
    wanted = set(fields)
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {shown(value)}, wanted an object")
    if set(value) != wanted:
        missing, unknown = sorted(wanted - set(value)), sorted(map(str, set(value) - wanted))
        raise ValueError(f"{name}: missing fields {missing}, unknown fields {shown(unknown)}")
    return value


def shown(value: Any) -> str:
    """Return a short one-line form of `value` for an error message."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
