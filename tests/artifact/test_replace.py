"""A folder is replaced as a whole, whatever happens to its writer."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hcompile.artifact import replace
from hcompile.artifact.replace import replacing

CODE = """
import os, signal, sys
from pathlib import Path
from hcompile.artifact import replace
target, stage = Path(sys.argv[1]), sys.argv[2]
def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)
if stage == "rename":
    replace._put = die
elif stage == "removal":
    replace.shutil.rmtree = die
with replace.replacing(target) as folder:
    (folder / "a").write_text("new")
    if stage == "writing":
        die()
    (folder / "b").write_text("new")
"""

WRITER = """
import sys
from pathlib import Path
from hcompile.artifact.replace import replacing
for number in range(40):
    with replacing(Path(sys.argv[1])) as folder:
        for name in "ab":
            (folder / name).write_text(f"{sys.argv[2]} {number}")
"""


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": "."}, text=True, stderr=subprocess.PIPE)


def write(target: Path, text: str) -> None:
    with replacing(target) as folder:
        for name in "ab":
            (folder / name).write_text(text)


def content(target: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in sorted(target.iterdir())}


def age(folder: Path) -> None:
    os.utime(folder, (0, 0))


def test_a_new_folder_takes_the_place_of_an_old_one(tmp_path: Path) -> None:
    write(tmp_path / "x.hcm", "old")
    write(tmp_path / "x.hcm", "new")
    assert content(tmp_path / "x.hcm") == {"a": "new", "b": "new"}
    assert os.listdir(tmp_path) == ["x.hcm"]


def test_the_folder_has_the_permissions_that_the_users_mask_gives(tmp_path: Path) -> None:
    write(tmp_path / "x.hcm", "x")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "x.hcm").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "x.hcm", "old")

    def run_out_of_space() -> None:
        with replacing(tmp_path / "x.hcm") as folder:
            (folder / "a").write_text("half")
            raise OSError(errno.ENOSPC, "disk full")

    with pytest.raises(OSError, match="disk full"):
        run_out_of_space()
    assert content(tmp_path / "x.hcm") == {"a": "old", "b": "old"}
    assert os.listdir(tmp_path) == ["x.hcm"]


@pytest.mark.parametrize("stage", ["writing", "rename", "removal"])
def test_a_killed_writer_leaves_a_whole_folder_and_the_next_one_cleans_up(tmp_path: Path, stage: str) -> None:
    target = tmp_path / "x.hcm"
    write(target, "old")
    writer = python(CODE, target, stage)
    writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    whole = "new" if stage == "removal" else "old"
    assert content(target) == {"a": whole, "b": whole}
    (left,) = tmp_path.glob(".x.hcm.*.part")
    age(left)
    write(target, "next")
    assert content(target) == {"a": "next", "b": "next"}
    assert os.listdir(tmp_path) == ["x.hcm"]


def test_the_folder_of_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    with replacing(tmp_path / "x.hcm") as folder:
        age(folder)
        write(tmp_path / "x.hcm", "first")
        (folder / "a").write_text("second")
    assert content(tmp_path / "x.hcm") == {"a": "second"}


def test_folders_of_other_targets_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / ".y.hcm.0.part"
    other.mkdir()
    age(other)
    write(tmp_path / "x.hcm", "x")
    assert other.is_dir()


def test_of_writers_that_run_together_the_last_one_wins_and_none_is_torn(tmp_path: Path) -> None:
    target = tmp_path / "x.hcm"
    write(target, "first")
    writers = [python(WRITER, target, name) for name in ("one", "two", "three")]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        seen.add(target.is_dir())
    for writer in writers:
        assert writer.communicate()[1] == ""
    last = content(target)
    assert seen <= {True} and last["a"] == last["b"] and last["a"].endswith(" 39")
    assert os.listdir(tmp_path) == ["x.hcm"]


def test_a_file_system_that_cannot_exchange_folders_is_served_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replace, "_RENAME_EXCHANGE", 1 << 20)  # the system answers EINVAL to an unknown flag
    write(tmp_path / "x.hcm", "old")
    write(tmp_path / "x.hcm", "new")
    assert content(tmp_path / "x.hcm") == {"a": "new", "b": "new"}
    assert os.listdir(tmp_path) == ["x.hcm"]


def test_a_target_that_is_a_file_is_no_folder_to_replace(tmp_path: Path) -> None:
    (tmp_path / "x.hcm").write_text("mine")
    with pytest.raises(NotADirectoryError):
        write(tmp_path / "x.hcm", "new")
    assert (tmp_path / "x.hcm").read_text() == "mine"
    assert os.listdir(tmp_path) == ["x.hcm"]
