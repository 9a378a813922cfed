"""What a wheel holds: every file of the package and of the folders linked into it, and nothing under a bare name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = ("LICENSE", "README.md", "pyproject.toml", "hcompile", "passes", "schedules", "tuning_db", "cli")
BUILD = "from setuptools import build_meta; build_meta.build_wheel('dist')"


def test_wheel_holds_every_source_file_under_the_package(tmp_path: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(
                source, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(source, tmp_path / name)
    command = (sys.executable, "-W", "ignore", "-c", BUILD)
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == _files_of_the_package(tmp_path)


def _files_of_the_package(root: Path) -> set[str]:
    return {
        os.path.relpath(os.path.join(parent, name), root)
        for parent, _, names in os.walk(root / "hcompile", followlinks=True)
        for name in names
    }
