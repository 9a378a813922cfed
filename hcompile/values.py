"""The JSON form that every plan, pattern, schedule and record shares, and its hash."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> str:
    """Return the one text of a JSON value: keys sorted, no spaces, no NaN.

    Raises:
        ValueError: the value holds NaN or an infinity, which JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def sha256_json(value: Any) -> str:
    """Return the sha256 (hex) of the canonical JSON text of `value`."""
    return sha256_text(canonical_json(value))


def sha256_text(text: str) -> str:
    """Return the sha256 (hex) of `text` as UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
