"""What every test shares: a cache directory of its own, so that no test reads or writes the user's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# First examples load torch and compile; a slow one is no failure.
settings.register_profile("hcompile", deadline=None)
settings.load_profile("hcompile")


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point HCOMPILE_CACHE_DIR at an empty folder and return it."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HCOMPILE_CACHE_DIR", str(folder))
    return folder
