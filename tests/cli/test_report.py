"""`--report` of optimize and `hcompile report`: what is refused before the work, and what is written after it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hcompile.cli.main import main
from hcompile.pipeline.report import OptimizeReport
from tests.report import reports


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[OptimizeReport]:
    """The pipeline gives what was put here, and fails when nothing was."""
    given: list[OptimizeReport] = []
    monkeypatch.setattr("hcompile.pipeline.optimize.optimize", lambda request, progress: given.pop())
    return given


def test_page_is_written_beside_the_json(runs: list[OptimizeReport], tmp_path: Path) -> None:
    runs.append(reports.report(reports.empty(outcome="hybrid", policy=None)))
    page, output = tmp_path / "page.html", tmp_path / "m.hcm"
    result = invoke("optimize", "m", "-o", output, "--json", "--report", page)
    assert result.exit_code == 0 and f"wrote {page}" in result.stderr
    assert json.loads(result.stdout) == reports.empty(outcome="hybrid", policy=None)
    assert page.read_text().startswith("<!DOCTYPE html>") and list(tmp_path.iterdir()) == [page]


def test_page_of_a_dense_model_is_written_before_the_error(
    runs: list[OptimizeReport], tmp_path: Path
) -> None:
    runs.append(reports.report(reports.empty()))
    result = invoke("optimize", "m", "--report", tmp_path / "page.html")
    assert result.exit_code == 3 and "The model stays dense" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("page", "says"),
    [(".", "is a folder"), ("none/page.html", "no such folder"), ("m.hcm", "would lie where m.hcm is")],
)
@pytest.mark.usefixtures("runs")
def test_bad_place_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("optimize", "m", "--report", page)
    assert result.exit_code == 2 and says in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.usefixtures("runs")
def test_missing_extra_is_named_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    result = invoke("optimize", "m", "--report", tmp_path / "page.html")
    assert result.exit_code == 2
    assert result.stderr == (
        "Error: the report needs jinja2, which is missing: pip install 'hcompile[report]'\n"
    )


def test_page_is_made_later_from_saved_json(tmp_path: Path) -> None:
    saved, page = tmp_path / "run.json", tmp_path / "page.html"
    saved.write_text(json.dumps(reports.empty()))
    result = invoke("report", saved, "-o", page)
    assert result.exit_code == 0 and result.stdout == ""
    assert "The model stays dense" in page.read_text()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"outcome": "dense"}',
        json.dumps(reports.empty() | {"more": 1}),
        json.dumps(reports.empty() | {"run": {"model": "m"}}),
        "\udcff",
    ],
    ids=["empty", "list", "object", "short", "more", "run", "bytes"],
)
def test_other_json_is_one_line(tmp_path: Path, text: str) -> None:
    saved = tmp_path / "run.json"
    saved.write_bytes(text.encode(errors="surrogateescape"))
    result = invoke("report", saved, "-o", tmp_path / "page.html")
    assert result.exit_code == 2 and "is no report of `hcompile optimize --json`" in result.stderr
    assert result.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == [saved]


def test_missing_json_is_one_line(tmp_path: Path) -> None:
    result = invoke("report", tmp_path / "none.json", "-o", tmp_path / "page.html")
    assert result.exit_code == 2 and "cannot be read (No such file or directory)" in result.stderr
