"""Expensive results other than kernel times, such as a policy profile: their key and their packed form."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hcompile.checks import check_sha256, check_text
from hcompile.values import canonical_json, sha256_json


@dataclass(frozen=True, slots=True)
class ResultKey:
    """What a result was computed from. `ResultKey.of` builds one.

    Attributes:
        kind: what the result is, such as `policy.profile`.
        weights_sha256, data_sha256, code_sha256: hashes of the model's weights, of the data it was measured
            on, and of the code that computed it.
        extra: canonical JSON text of everything else that it depends on.
    """

    kind: str
    weights_sha256: str
    data_sha256: str
    code_sha256: str
    extra: str

    def __post_init__(self) -> None:
        check_text("result kind", self.kind, 64)
        for name in ("weights_sha256", "data_sha256", "code_sha256"):
            check_sha256(name, getattr(self, name))
        if canonical_json(json.loads(self.extra)) != self.extra:
            raise ValueError("the extra part of a result key is not canonical JSON")

    @classmethod
    def of(
        cls,
        kind: str,
        *,
        weights_sha256: str,
        data_sha256: str,
        code_sha256: str,
        extra: Mapping[str, Any] | None = None,
    ) -> ResultKey:
        """Return the key with `extra` in canonical form."""
        return cls(kind, weights_sha256, data_sha256, code_sha256, canonical_json(dict(extra or {})))

    @property
    def digest(self) -> str:
        """The sha256 of the JSON form."""
        return sha256_json(asdict(self))


def pack(payload: Any) -> bytes:
    """Return a JSON value as compressed canonical text."""
    return zlib.compress(canonical_json(payload).encode())


def unpack(blob: bytes) -> Any:
    """Return the JSON value that `pack` packed.

    Raises:
        ValueError: the bytes are not what `pack` wrote.
    """
    try:
        return json.loads(zlib.decompress(blob))
    except zlib.error as error:
        raise ValueError(f"the packed result is damaged: {error}") from error
