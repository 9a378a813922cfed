"""What the policy remembers between runs: expensive results under keys of what they depend on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Memory(Protocol):
    """A store of JSON values. Whoever implements it adds what the policy does not know to the keys: weights, code."""

    def recall(self, kind: str, key: Mapping[str, Any]) -> Any | None:
        """Return what was kept under this key, None when nothing was."""

    def keep(self, kind: str, key: Mapping[str, Any], value: Any) -> None: ...


class Forgetful:
    """Keeps nothing."""

    def recall(self, kind: str, key: Mapping[str, Any]) -> Any | None:
        return None

    def keep(self, kind: str, key: Mapping[str, Any], value: Any) -> None:
        pass
