"""The house rules that no linter knows: linked folders, file sizes, what a light import loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINKED = ("passes", "schedules", "tuning_db", "cli")
HEAVY = (
    "jinja2",
    "matplotlib",
    "networkx",
    "numpy",
    "scipy",
    "sqlalchemy",
    "torch",
    "transformers",
    "triton",
    "tvm",
    "xgboost",
)
LONGEST_LINES = 400


@pytest.mark.parametrize("name", LINKED)
def test_top_level_folder_is_linked_into_the_package(name: str) -> None:
    link = ROOT / "hcompile" / name
    assert os.readlink(link) == f"../{name}"
    assert (link / "__init__.py").samefile(ROOT / name / "__init__.py")


def test_bare_folder_names_cannot_be_imported_outside_the_repository(tmp_path: Path) -> None:
    found = f"import importlib.util as u; print([name for name in {LINKED} if u.find_spec(name)])"
    assert _python("-c", found, cwd=tmp_path).stdout == "[]\n"


@pytest.mark.parametrize(
    "arguments", [("-c", "import hcompile"), ("-m", "hcompile", "--help")], ids=["import", "help"]
)
def test_light_entry_loads_no_heavy_module(arguments: tuple[str, ...]) -> None:
    imported = _python("-X", "importtime", *arguments, cwd=ROOT).stderr
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in imported.splitlines()}
    assert modules.isdisjoint(HEAVY)


@pytest.mark.parametrize("folder", ["hcompile", "tests", "examples", "benchmarks"])
def test_no_source_file_is_longer_than_the_limit(folder: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in _sources(ROOT / folder)}
    assert {str(path): length for path, length in lengths.items() if length > LONGEST_LINES} == {}


def _sources(folder: Path) -> list[Path]:
    return [
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.endswith((".py", ".c"))
    ]


def _python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=True, timeout=60
    )
