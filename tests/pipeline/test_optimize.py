"""The whole path of a model through the house: from Python, from an archive, under a given plan, and out of budget."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import hcompile
from hcompile.artifact.load import open_artifact
from hcompile.errors import UsageError
from hcompile.frontend.load import ImportedModel
from hcompile.passes.far_field import far_heads
from hcompile.passes.select import select
from hcompile.patterns import Dense, Linear, Local
from hcompile.pipeline.attempts import Attempt
from hcompile.pipeline.optimize import optimize
from hcompile.pipeline.report import OptimizeReport
from hcompile.pipeline.request import OptimizeRequest
from hcompile.pipeline.tune import TuneRequest, tune
from hcompile.pipeline.verify import VerifyRequest, verify
from hcompile.plan import Plan
from hcompile.policy.certificate import Certificate
from tests.pipeline.reader import LENGTH, Reader, example, request_for


@torch.library.custom_op("hcompile_test::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@pytest.fixture(scope="module")
def first(home: Path, model: ImportedModel) -> OptimizeReport:
    """A first run, which fills the database."""
    return optimize(request_for(home / "first.hcm", home), model=model)


def test_a_module_becomes_an_artifact_within_its_budget(first: OptimizeReport, reader: Reader) -> None:
    assert first.outcome == "hybrid", (first.policy, first.certificate)
    assert first.kernels_measured > 0
    assert first.removed[LENGTH] > 0
    assert first.certificate is not None and first.certificate["holds"]
    ids = torch.randint(256, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    found = hcompile.load(first.output)(ids=ids)
    with torch.no_grad():
        wanted = reader(ids)
    divergence = F.kl_div(found.log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="none")
    assert float(divergence.sum(-1).mean()) <= 0.5


def test_a_second_run_measures_no_kernel_and_finds_the_same_plan(
    first: OptimizeReport, request_of: OptimizeRequest, model: ImportedModel
) -> None:
    second = optimize(request_of, model=model)
    assert second.kernels_measured == 0
    assert second.plan == first.plan
    assert second.certificate == first.certificate


def test_a_dry_run_writes_a_plan_that_can_be_given(
    first: OptimizeReport, request_of: OptimizeRequest, model: ImportedModel, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    report = optimize(replace(request_of, output=plan, dry_run=True), model=model)
    assert report.outcome == "plan"
    assert Plan.from_json(json.loads(plan.read_bytes())) == first.plan == report.plan
    (site,) = report.sites
    mine = Plan.of({site.name: (Dense(), Local(64, 16)) * 2})
    plan.write_text(json.dumps(mine.to_json()))
    given = optimize(replace(request_of, plan=plan), model=model)
    assert given.plan == mine and given.outcome == "hybrid"
    assert hcompile.load(given.output).plan == mine


@pytest.mark.usefixtures("first")
def test_a_refitted_artifact_is_certified_as_it_runs_and_keeps_the_dense_model(
    request_of: OptimizeRequest, model: ImportedModel, reader: Reader
) -> None:
    report = optimize(replace(request_of, refit=True), model=model)
    (site,) = report.sites
    assert report.outcome == "hybrid"
    assert report.refit == {"start": LENGTH // 8, "projections": [site.name]}
    assert report.run is not None and report.run["documents"]["refit"] > report.run["documents"]["profile"]
    opened = open_artifact(report.output)
    assert opened.manifest.notes["refit"] == report.refit
    ids = torch.randint(256, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    dense = opened.lowered.dense(ids)[0]
    with torch.no_grad():
        torch.testing.assert_close(dense, reader(ids), rtol=1e-4, atol=1e-5)
    plain = select(model.program, report.plan)
    short = ids[:, : LENGTH // 8]
    torch.testing.assert_close(opened.lowered.hybrid(short), plain.run(short), rtol=1e-4, atol=1e-5)
    long = opened.lowered.hybrid(ids)[0][:, LENGTH // 8 :] - plain.run(ids)[0][:, LENGTH // 8 :]
    assert float(long.abs().max()) > 1e-4
    again = verify(VerifyRequest(Path(report.output), str(request_of.calib)))
    assert again.measured.holds


@pytest.mark.usefixtures("first")
def test_linear_heads_are_learnt_certified_and_kept(
    request_of: OptimizeRequest, model: ImportedModel, reader: Reader, tmp_path: Path
) -> None:
    (site,) = model.program.sites
    plan = Plan.of({site.name: (Linear(64, 16), Dense(), Local(64, 4), Linear(32, 16))})
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan.to_json()))
    report = optimize(replace(request_of, plan=file, refit=True), model=model)
    assert report.outcome == "hybrid" and report.plan == plan
    assert report.run is not None and report.run["documents"]["learn features"] > 0
    opened = open_artifact(report.output)
    assert opened.program.plan == plan and far_heads(opened.program, plan)
    ids = torch.randint(256, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(opened.lowered.dense(ids)[0], reader(ids), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(opened.lowered.hybrid(ids), opened.program.run(ids), rtol=1e-4, atol=1e-5)
    assert verify(VerifyRequest(Path(report.output), str(request_of.calib))).measured.holds


@pytest.mark.usefixtures("first")
def test_linear_heads_can_be_chosen(
    request_of: OptimizeRequest, model: ImportedModel, tmp_path: Path
) -> None:
    wanted = replace(
        request_of, output=tmp_path / "plan.json", families=("linear",), cost="pairs", dry_run=True
    )
    report = optimize(wanted, model=model)
    assert {pattern.family for pattern in report.plan[report.sites[0].name]} == {"linear"}


def test_a_refit_wants_documents(request_of: OptimizeRequest, model: ImportedModel, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(Plan.dense(model.program.sites).to_json()))
    bare = replace(model, sample_inputs=())
    with pytest.raises(UsageError, match="--refit fits weights to documents: pass --calib"):
        optimize(replace(request_of, refit=True, calib=None, plan=plan), model=bare)


@pytest.mark.usefixtures("first")
def test_no_budget_gives_the_dense_model(
    request_of: OptimizeRequest, model: ImportedModel, reader: Reader
) -> None:
    report = optimize(replace(request_of, budget="kl=0"), model=model)
    assert report.outcome == "dense"
    assert report.certificate is None or not report.certificate["holds"]
    ids = torch.randint(256, (1, LENGTH), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(hcompile.load(report.output)(ids=ids), reader(ids))


def test_a_plan_that_is_not_certified_is_followed_by_one_more_careful(
    first: OptimizeReport, request_of: OptimizeRequest, model: ImportedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first plan may lose a thousand times what it is held to, and so as much as under the largest budget.
    tries = (Attempt(1000.0, 0.955), Attempt(0.6, 0.995))
    monkeypatch.setattr("hcompile.pipeline.optimize.ATTEMPTS", tries)
    assert first.certificate is not None
    limit = first.certificate["claims"][0]["estimate"] / 2
    budget = f"kl={limit:.3g}"
    report = optimize(replace(request_of, budget=budget), model=model)
    assert report.outcome == "hybrid" and report.certificate is not None and report.certificate["holds"]
    (claim,) = report.certificate["claims"]
    assert claim["confidence"] == 0.995 and claim["limit"] == pytest.approx(limit, rel=0.01)
    (warning,) = report.warnings
    assert warning.startswith("a plan was not certified on fresh documents (kl ")
    monkeypatch.setattr("hcompile.pipeline.optimize.ATTEMPTS", tries[:1])
    dense = optimize(replace(request_of, budget=budget), model=model)
    assert dense.outcome == "dense" and dense.certificate is not None and not dense.certificate["holds"]


@pytest.mark.usefixtures("first")
def test_several_budgets_are_certified_and_verified_together(
    request_of: OptimizeRequest, model: ImportedModel, home: Path
) -> None:
    report = optimize(replace(request_of, budget=("nll=20%", "kl=0.5", "cosine=0.5")), model=model)
    assert report.outcome == "hybrid", (report.policy, report.certificate)
    assert report.certificate is not None and report.certificate["holds"]
    assert [claim["metric"] for claim in report.certificate["claims"]] == ["nll", "kl", "cosine"]
    text = str(home / "text.jsonl")
    again = verify(VerifyRequest(Path(report.output), text, documents=32))
    assert [claim.metric for claim in again.measured.claims] == ["nll", "kl", "cosine"]
    assert again.carried is not None and again.carried.to_json() == report.certificate
    stricter = verify(VerifyRequest(Path(report.output), text, budget=("kl=0.5", "nll=0%"), documents=32))
    assert stricter.measured.claims[0].holds and not stricter.measured.holds
    dense = optimize(replace(request_of, budget=("kl=0.5", "cosine=1")), model=model)
    assert dense.outcome == "dense" and dense.why_dense == "cosine=1 allows no degradation at all"


def test_longer_documents_are_measured_and_stated(
    first: OptimizeReport, request_of: OptimizeRequest, model: ImportedModel, home: Path
) -> None:
    longer, text = 2 * LENGTH, home / "longer.jsonl"
    rng = random.Random(1)
    texts = ("".join(rng.choices("abcdefgh \n", k=longer)) for _ in range(33))
    text.write_text("".join(json.dumps({"text": each}) + "\n" for each in texts))
    assert first.certificate is not None and (first.certificate["beyond"], first.certificate["covers"]) == (
        [],
        LENGTH,
    )
    report = optimize(replace(request_of, verify=str(text), beyond=(longer,)), model=model)
    assert report.outcome == "hybrid" and report.certificate is not None and "beyond" in report.stages
    certificate = Certificate.from_json(dict(report.certificate))
    (step,) = certificate.beyond
    assert (step.length, step.documents, step.claims[0].limit) == (longer, 33, certificate.claims[0].limit)
    assert step.claims[0].tokens > 1.9 * certificate.claims[0].tokens * 33 / certificate.documents
    assert certificate.covers == (longer if step.holds else LENGTH)
    assert OptimizeReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    carried = open_artifact(report.output).manifest.certificate
    assert carried is not None and Certificate.from_json(dict(carried)) == certificate


@pytest.mark.usefixtures("first")
def test_an_archive_without_data_is_measured_on_its_own_inputs_and_not_certified(
    request_of: OptimizeRequest, reader: Reader, tmp_path: Path
) -> None:
    archive = tmp_path / "reader.pt2"
    length = torch.export.Dim("length", min=2, max=4096)
    exported = torch.export.export(reader, example()[0], dynamic_shapes=({1: length},))
    torch.export.save(exported, archive)
    report = optimize(replace(request_of, model=str(archive), calib=None))
    assert report.certificate is None
    assert report.run is not None and set(report.run["documents"]) == {"profile", "repair"}
    assert [warning.split(":")[0] for warning in report.warnings] == ["no --calib"]


def test_what_no_artifact_can_hold_is_refused_before_the_work(request_of: OptimizeRequest) -> None:
    class Odd(Reader):
        def forward(self, ids: Tensor) -> Tensor:
            return torch.ops.hcompile_test.twice(super().forward(ids))  # type: ignore[no-any-return]

    def refuse(stage: str, done: int, total: int | None) -> None:
        assert stage == "import"

    odd = hcompile.load_module(Odd().eval(), example(), "odd")
    with pytest.raises(
        UsageError, match=r"hcompile_test\.twice\.default, which is no operator on tensors alone"
    ):
        optimize(request_of, refuse, model=odd)
    assert not request_of.target.exists()


def test_a_report_says_what_was_asked_and_is_read_back_from_json(first: OptimizeReport) -> None:
    assert OptimizeReport.from_json(json.loads(json.dumps(first.to_json()))) == first
    run = first.run
    assert run is not None and run["model"] == "reader" and run["budgets"] == ["kl=0.5"]
    assert run["lengths"] == [LENGTH] and run["device"]["kind"] == "cpu"
    assert first.certificate is not None and run["documents"]["certify"] == first.certificate["documents"]


@pytest.mark.usefixtures("request_of")
def test_verify_measures_the_claim_again(first: OptimizeReport, home: Path) -> None:
    report = verify(VerifyRequest(Path(first.output), str(home / "text.jsonl"), documents=32))
    assert report.measured.holds
    assert report.carried is not None and report.carried.to_json() == first.certificate


def test_verify_runs_no_code_that_an_artifact_names(
    first: OptimizeReport, home: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(first.output, tmp_path / "copy.hcm"))
    manifest = json.loads((copy / "manifest.json").read_bytes())
    # As the first artifacts wrote their budget, and as today's do.
    for budgets in ({"budget": "kl=0.5"}, {"budgets": ["kl=0.5"]}):
        manifest["notes"] = {**budgets, "metric": "nowhere:kl"}
        (copy / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(UsageError, match=r"pass --metric 'nowhere:kl' if you trust that code"):
            verify(VerifyRequest(copy, str(home / "text.jsonl")))


def test_verify_holds_the_budget_that_the_first_artifacts_name(
    first: OptimizeReport, home: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(first.output, tmp_path / "copy.hcm"))
    manifest = json.loads((copy / "manifest.json").read_bytes())
    text = str(home / "text.jsonl")
    for notes, message in (
        ({"budgets": [3]}, r"its budget is \[3\]"),
        ({"budget": "bleu=1"}, "'bleu' is unknown"),
    ):
        (copy / "manifest.json").write_text(json.dumps({**manifest, "notes": notes}))
        with pytest.raises(UsageError, match=message):
            verify(VerifyRequest(copy, text))


@pytest.mark.usefixtures("first")
def test_a_batch_and_a_length_that_the_export_fixed_are_kept(
    request_of: OptimizeRequest, reader: Reader, tmp_path: Path
) -> None:
    archive = tmp_path / "fixed.pt2"
    ids = torch.randint(256, (5, LENGTH), generator=torch.Generator().manual_seed(3))
    torch.export.save(torch.export.export(reader, (ids,)), archive)
    report = optimize(replace(request_of, model=str(archive), lengths=None))
    assert report.outcome == "hybrid", (report.policy, report.certificate)
    assert list(report.removed) == [LENGTH]
    assert report.certificate is not None and report.certificate["holds"]
    assert report.certificate["documents"] % 5 and report.certificate["longest"] == LENGTH
    opened = open_artifact(report.output)
    assert opened.limits == (LENGTH, LENGTH)
    tuned = tune(TuneRequest(Path(report.output), trials=2))
    assert [node.length for node in tuned.nodes] == [LENGTH]
    with pytest.raises(UsageError, match=f"--lengths 64: the model was made for at least {LENGTH} tokens"):
        tune(TuneRequest(Path(report.output), lengths=(64,)))
