"""What `hcompile ablate` prints, and its exit code where nothing holds the budget."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hcompile.cli.main import main
from hcompile.patterns import Local
from hcompile.pipeline.ablate import AblateRequest
from hcompile.pipeline.ablation import MAIN, Ablation, Point, Sensitivity
from hcompile.plan import Plan
from hcompile.site import Site

SITE = Site("layer0", 0, 2, 1, 64, 0.125, causal=True)


def point(curve: str, target: float, left: float, estimate: float) -> Point:
    plan = Plan.of({"layer0": (Local(64), Local(64))})
    family = "" if curve == MAIN else "local"
    return Point(curve, family, 1024, target, left, estimate, estimate / 2, estimate * 1.5, 24, plan)


FOUND = Ablation(
    model="m",
    metric="kl",
    unit="nats a token",
    budget="",
    limits=(0.003, 0.01, 0.03),
    confidence=0.95,
    source="texts",
    dtype="float32",
    device="cpu",
    seed=0,
    sites=(SITE,),
    lengths=(1024,),
    data_sha256=("0" * 64,),
    dense_pairs=(1049600,),
    points=(
        point(MAIN, 0.75, 0.748, 0.001),
        point(MAIN, 0.5, 0.499, 0.004),
        point(MAIN, 0.25, 0.25, 0.015),
        point("heads", 0.75, 0.7, 0.0123),
        point("uniform", 0.5, 0.498, 0.02),
    ),
    sensitivities=(Sensitivity(1024, "local", ("local 64+16",), ((0.0002, 0.0314),), (0.04,)),),
)


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
