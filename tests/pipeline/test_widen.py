"""Windows that widen, the whole way: chosen, measured and certified at each length, or left as they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import hcompile
from hcompile.artifact.load import open_artifact
from hcompile.frontend.load import ImportedModel
from hcompile.passes.select import select
from hcompile.patterns import Local
from hcompile.pipeline.optimize import optimize
from hcompile.pipeline.request import OptimizeRequest
from hcompile.pipeline.shorter import measure_shorter
from hcompile.plan import Plan
from hcompile.policy.certificate import Certificate
from tests.pipeline.reader import HEADS, LENGTH


def test_windows_widen_and_every_length_is_certified(
    request_of: OptimizeRequest, model: ImportedModel, home: Path
) -> None:
    asked = replace(request_of, budget="kl=1e-4", lengths=(LENGTH // 2, LENGTH), widen=True)
    report = optimize(asked, model=model)
    assert report.outcome == "hybrid" and report.plan.widens
    assert report.policy is not None and report.policy["widen"][-1]["accepted"]
    assert report.certificate is not None
    certificate = Certificate.from_json(dict(report.certificate))
    assert [(step.length, step.holds) for step in certificate.shorter] == [(LENGTH // 2, True)]
    opened = open_artifact(Path(report.output))
    for length in (LENGTH // 2, LENGTH):
        ids = torch.randint(256, (1, length), generator=torch.Generator().manual_seed(length))
        rigid = select(model.program, report.plan.at(length))
        (found,), (wanted,) = opened.program.run(ids), rigid.run(ids)
        torch.testing.assert_close(found, wanted)
        loaded = hcompile.load(report.output)
        torch.testing.assert_close(loaded(ids=ids), wanted, rtol=1e-3, atol=1e-3)


def test_a_length_that_is_not_certified_is_named_and_the_second_plan_is_rigid(
    request_of: OptimizeRequest, model: ImportedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: Any) -> Certificate:
        found = measure_shorter(*arguments)
        (step,) = found.shorter
        claims = tuple(replace(claim, bound=2 * claim.limit) for claim in step.claims)
        return replace(found, shorter=(replace(step, claims=claims),))

    monkeypatch.setattr("hcompile.pipeline.optimize.measure_shorter", failing)
    asked = replace(request_of, budget="kl=1e-4", lengths=(LENGTH // 2, LENGTH), widen=True)
    report = optimize(asked, model=model)
    assert report.outcome == "hybrid" and not report.plan.widens
    (warning,) = report.warnings
    assert warning.endswith(
        f"at {LENGTH // 2} tokens); a more careful one, whose windows stay as they are, is tried once"
    )


def test_a_given_plan_that_widens_is_measured_at_the_lengths_that_are_named(
    request_of: OptimizeRequest, model: ImportedModel, tmp_path: Path
) -> None:
    (site,) = model.program.sites
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(Plan.of({site.name: [Local(64, 16, widening=64)] * HEADS}).to_json()))
    both = optimize(replace(request_of, plan=plan, lengths=(LENGTH // 2, LENGTH)), model=model)
    assert both.certificate is not None and not both.warnings
    assert [step["length"] for step in both.certificate["shorter"]] == [LENGTH // 2]
    one = optimize(replace(request_of, plan=plan), model=model)
    assert one.certificate is not None and one.certificate["shorter"] == []
    (warning,) = one.warnings
    assert warning.startswith(
        f"the plan's windows widen, and nothing shorter than {LENGTH} tokens is measured"
    )
