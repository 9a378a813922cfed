"""Documents name what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hcompile.cli.main import main

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    assert [
        target for target in targets if "://" not in target and not (document.parent / target).exists()
    ] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_paths_in_the_text_exist(document: Path) -> None:
    """A path is what ends in a known suffix or a slash and begins with one of the project's folders."""
    folders = "benchmarks|cli|docs|examples|hcompile|passes|schedules|tests|tuning_db"
    paths = set(
        re.findall(
            rf"(?<![\w/.-])((?:{folders})/[\w./-]*(?:\.py|\.md|\.c|\.json|/))(?![\w*])", document.read_text()
        )
    )
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [name for name in main.commands if f"`hcompile {name}" not in readme] == []


def test_readme_uses_commands_that_exist() -> None:
    used = set(re.findall(r"hcompile ([a-z]+) (?=[A-Z]|my-)", (ROOT / "README.md").read_text()))
    assert used - set(main.commands) == set()
