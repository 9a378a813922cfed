"""What every test shares: a cache directory of its own, so that no test reads or writes the user's."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point HCOMPILE_CACHE_DIR at an empty folder and return it."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HCOMPILE_CACHE_DIR", str(folder))
    return folder
