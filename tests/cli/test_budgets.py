"""Several budgets on the command line: what reaches the pipeline, and how one that does not hold is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hcompile.cli.main import main
from hcompile.pipeline.report import OptimizeReport
from hcompile.pipeline.request import OptimizeRequest
from hcompile.pipeline.verify import VerifyReport, VerifyRequest
from hcompile.plan import Plan
from hcompile.policy.certificate import Certificate

KL = Certificate.from_json(
    json.loads((Path(__file__).parents[1] / "data" / "certificate-1.json").read_bytes())
)
BROKEN = dataclasses.replace(
    KL, claims=(*KL.claims, dataclasses.replace(KL.claims[0], metric="nll", limit=1e-9))
)
BUDGETS = ("--budget", "kl=0.003", "--budget", "nll=1e-9")


def optimized(
    monkeypatch: pytest.MonkeyPatch, *arguments: str, **fields: Any
) -> tuple[Result, tuple[str, ...]]:
    """Run the command with a pipeline that only reports; return its result and the budgets it was given."""
    given: list[OptimizeRequest] = []
    nothing: dict[str, Any] = dict.fromkeys(("sites", "left", "guards", "nodes"), ())
    nothing |= {"removed": {}, "stages": {}, "kernels_measured": 0, "crossover": None, "policy": None}
    report = OptimizeReport(
        output="m.hcm", plan=Plan(()), linear_library="default", **{**nothing, "outcome": "dense", **fields}
    )

    def run(request: OptimizeRequest, progress: object) -> OptimizeReport:
        given.append(request)
        return report

    monkeypatch.setattr("hcompile.pipeline.optimize.optimize", run)
    result = CliRunner().invoke(main, ["optimize", "m", *arguments])
    return result, given[0].budgets


def test_budgets_reach_the_pipeline_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    result, budgets = optimized(monkeypatch, *BUDGETS, outcome="hybrid", certificate=KL.to_json())
    assert (result.exit_code, budgets) == (0, ("kl=0.003", "nll=1e-9"))
    result, budgets = optimized(monkeypatch, outcome="hybrid", certificate=None)
    assert (result.exit_code, budgets) == (0, ("kl=0.003",))


def test_a_bound_above_its_budget_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = optimized(monkeypatch, *BUDGETS, certificate=BROKEN.to_json())
    assert result.exit_code == 3
    assert (
        "nll 0.00218 nats a token, at most 0.00237 with 95% confidence: the budget of 1e-09 does NOT"
        in result.stdout
    )
    assert (
        "Error: budget kl=0.003, nll=1e-9: the certified bound of nll is above the budget, so"
        in result.stderr
    )


def test_a_budget_that_no_plan_holds_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "no measured plan is likely to hold nll=1e-9"
    result, _ = optimized(monkeypatch, *BUDGETS, certificate=None, policy={"why_dense": why})
    assert result.exit_code == 3 and f"{why}, so m.hcm is the dense model" in result.stderr


def test_verify_names_the_budget_that_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[VerifyRequest] = []

    def run(request: VerifyRequest, progress: object) -> VerifyReport:
        given.append(request)
        return VerifyReport("m.hcm", BROKEN, None)

    monkeypatch.setattr("hcompile.pipeline.verify.verify", run)
    result = CliRunner().invoke(main, ["verify", "m.hcm", "texts", *BUDGETS])
    assert result.exit_code == 3 and "does not hold its budget of nll on texts" in result.stderr
    assert given[0].budget == ("kl=0.003", "nll=1e-9")
    CliRunner().invoke(main, ["verify", "m.hcm", "texts"])
    assert given[1].budget is None


def test_verify_says_whether_the_certificate_covers_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    longer = dataclasses.replace(KL, longest=2 * KL.longest)
    told = f"at most {KL.longest} tokens; nothing longer was measured"
    for measured, carried, line in (
        (KL, KL, f"documents of {KL.longest} tokens are covered by the artifact's certificate, which covers"),
        (longer, KL, f"{longer.longest} tokens are not covered by the artifact's certificate, which covers"),
        (KL, None, "the artifact carries no certificate, so it covers no length"),
    ):
        report = VerifyReport("m.hcm", measured, carried)
        monkeypatch.setattr("hcompile.pipeline.verify.verify", lambda *_, report=report: report)
        out = CliRunner().invoke(main, ["verify", "m.hcm", "texts"]).stdout
        last = out.splitlines()[-1]
        assert line in last and (told in last) == (carried is not None)
        assert report.to_json()["covered"] is (measured is carried)
