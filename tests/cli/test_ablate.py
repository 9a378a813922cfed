"""What `hcompile ablate` prints, and its exit code where nothing holds the budget."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hcompile.cli.main import main
from hcompile.pipeline.ablate import AblateRequest
from hcompile.pipeline.ablation import Ablation
from tests.report.ablations import FOUND


def ablated(
    monkeypatch: pytest.MonkeyPatch, found: Ablation, *arguments: str
) -> tuple[Result, AblateRequest]:
    """Run the command with a pipeline that only reports; return its result and the request."""
    given: list[AblateRequest] = []

    def run(request: AblateRequest, progress: object) -> Ablation:
        given.append(request)
        return found

    monkeypatch.setattr("hcompile.pipeline.ablate.ablate", run)
    return CliRunner().invoke(main, ["ablate", "m", *arguments]), given[0]


def test_one_row_a_target_and_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    result, request = ablated(monkeypatch, FOUND, "-o", "out", "--lengths", "1024,2048", "--points", "3")
    assert result.exit_code == 0
    assert (request.output, request.lengths, request.points) == (Path("out"), (1024, 2048), 3)
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["left", "kl", "low", "high", "heads", "uniform"] in rows
    assert ["74.8%", "0.001", "0.0005", "0.0015", "0.012", "(70.0%)", "-"] in rows
    assert ["49.9%", "0.004", "0.002", "0.006", "-", "0.02"] in rows
    sensitive = "1024 tokens: predicted to lose the most alone under local 64+16: 0.031 head 1 of layer0, 0.0002 head 0"
    assert f"{sensitive} of layer0\n" in result.stdout
    assert result.stdout.endswith(
        "1024 tokens: the interval of kl stays within 0.003 with 25.2% of the pairs removed, not with 50.1%; "
        "0.01 with 50.1% of the pairs removed, not with 75.0%; "
        "0.03 with 75.0% of the pairs removed, the most that was measured\nwrote out.csv and out.json\n"
    )


def test_json_is_the_one_form(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = ablated(monkeypatch, FOUND, "--json")
    assert Ablation.from_json(json.loads(result.stdout)) == FOUND


def test_the_page_is_written_beside_the_curves_and_again_from_their_json(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page, again, saved = (tmp_path / name for name in ("page.html", "again.html", "out.json"))
    result, _ = ablated(monkeypatch, FOUND, "--report", str(page), "-o", str(tmp_path / "out"))
    assert result.exit_code == 0 and f"wrote {page}" in result.stderr
    saved.write_text(json.dumps(FOUND.to_json()))
    assert CliRunner().invoke(main, ["report", str(saved), "-o", str(again)]).exit_code == 0
    assert page.read_text() == again.read_text() and "hcompile ablate: m" in page.read_text()


def test_a_page_that_would_lie_on_the_curves_is_refused_before_the_work(tmp_path: Path) -> None:
    prefix = tmp_path / "out"
    result = CliRunner().invoke(main, ["ablate", "m", "-o", str(prefix), "--report", f"{prefix}.csv"])
    assert result.exit_code == 2 and "would lie where" in result.stderr


@pytest.mark.parametrize(("limit", "code"), [(0.0001, 3), (0.003, 0)])
def test_a_budget_that_nothing_holds_is_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, limit: float, code: int
) -> None:
    found = replace(FOUND, budget=f"kl={limit:g}", limits=(limit,))
    result, _ = ablated(monkeypatch, found, "--budget", found.budget)
    assert result.exit_code == code
    message = f"Error: budget kl={limit:g}: no measured plan holds it at 1024 tokens; allow more"
    assert (message in result.stderr) == bool(code)


def test_no_usual_limits_ask_for_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = ablated(monkeypatch, replace(FOUND, metric="nll", limits=()))
    assert "pass --budget nll=LIMIT for how much can go within it" in result.stdout


@pytest.mark.parametrize(
    "wrong",
    [
        {"lengths": (1024, 512)},
        {"dense_pairs": ()},
        {"data_sha256": ("0",)},
        {"limits": (0.01, 0.003)},
        {"confidence": 1.0},
        {"lengths": (512,)},
        {"sites": ()},
    ],
    ids=str,
)
def test_an_ablation_checks_itself(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"ablation: |the plan does not fit"):
        replace(FOUND, **wrong)
