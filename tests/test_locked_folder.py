"""Temporary folders: gone with their process, however it ends, and safe while it lives."""

from __future__ import annotations

import os
from pathlib import Path

from hcompile.locked_folder import locked_folder


def _old(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "file").touch()
    os.utime(folder, (0, 0))
    return folder


def test_a_folder_is_gone_when_its_block_ends(tmp_path: Path) -> None:
    with locked_folder("work-", tmp_path) as folder:
        assert folder.parent == tmp_path and list(folder.iterdir()) == []
        (folder / "file").touch()
    assert list(tmp_path.iterdir()) == []


def test_only_old_folders_of_the_prefix_that_nobody_locks_are_removed(tmp_path: Path) -> None:
    _old(tmp_path / "work-dead")
    kept = {_old(tmp_path / "other-dead"), tmp_path / "work-young", tmp_path / "work-link"}
    (tmp_path / "work-young").mkdir()
    (tmp_path / "work-link").symlink_to(tmp_path / "other-dead")
    with locked_folder("work-", tmp_path) as alive:
        _old(alive)
        with locked_folder("work-", tmp_path) as second:
            assert set(tmp_path.iterdir()) == {*kept, alive, second}
    assert set(tmp_path.iterdir()) == kept
    assert (tmp_path / "other-dead" / "file").exists()
