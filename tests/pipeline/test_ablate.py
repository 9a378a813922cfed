"""Removal curves: repeatable, remembered, each length and control beside the others, written as JSON and CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hcompile
from hcompile.errors import UsageError
from hcompile.frontend.load import ImportedModel
from hcompile.pipeline.ablate import AblateRequest, ablate
from hcompile.pipeline.ablation import CURVES, MAIN, Ablation, Point, verdict_of
from hcompile.pipeline.plan_runner import PlanRunner
from hcompile.plan import Plan
from tests.pipeline.reader import write_texts

HEADS, HEAD_DIM, WIDTH = 2, 32, 32
LENGTHS = (160, 256)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * HEADS * HEAD_DIM)
        self.out = nn.Linear(HEADS * HEAD_DIM, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(3 * q, k, v, is_causal=True)
        added: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return x + 3 * added


class Reader(nn.Module):
    """Two causal layers over bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, WIDTH)
        self.layers = nn.Sequential(Layer(), Layer())
        self.head = nn.Linear(WIDTH, 256)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(self.embed(ids)))
        return logits


@pytest.fixture(scope="module")
def model() -> ImportedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reader = Reader().eval()
    return hcompile.load_module(reader, ((torch.arange(3 * 41).reshape(3, 41) % 256,), {}), "reader")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache directory for all tests here, and text to measure on."""
    folder = tmp_path_factory.mktemp("home")
    write_texts(folder, 80, max(LENGTHS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HCOMPILE_CACHE_DIR", str(folder / "cache"))
        yield folder


def request_for(output: Path, home: Path) -> AblateRequest:
    return AblateRequest("reader", output, calib=str(home / "text.jsonl"), lengths=LENGTHS, points=2)


@pytest.fixture(scope="module")
def first(home: Path, model: ImportedModel) -> Ablation:
    return ablate(request_for(home / "first", home), model=model)


@pytest.fixture
def request_of(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AblateRequest:
    monkeypatch.setenv("HCOMPILE_CACHE_DIR", str(home / "cache"))
    return request_for(tmp_path / "again", home)


def test_curves_fall_at_every_length_beside_their_controls(first: Ablation) -> None:
    assert (first.metric, first.limits, first.lengths) == ("kl", (0.003, 0.01, 0.03), LENGTHS)
    for length in LENGTHS:
        main = first.curve(MAIN, length)
        assert len(main) >= 2 and main[-1].estimate > main[0].estimate >= 0
        for name in CURVES[1:3]:
            controls = {point.target: point for point in first.curve(name, length, "local")}
            assert set(controls) == {point.target for point in main}
        # Nothing is left to choose in the plan that leaves the least: all curves end there.
        (last,) = {first.curve(name, length, "" if name == MAIN else "local")[-1].plan for name in CURVES[:4]}
        assert last == main[-1].plan
    assert all(point.documents == 24 and point.low <= point.estimate <= point.high for point in first.points)


def test_every_head_and_layer_alone_has_a_predicted_loss(first: Ablation) -> None:
    # Routed heads can hide nothing of the shorter rows.
    assert [(found.length, found.family) for found in first.sensitivities] == [
        (160, "local"),
        (256, "local"),
        (256, "routed"),
    ]
    for found in first.sensitivities:
        assert [len(row) for row in found.heads] == [HEADS, HEADS] and len(found.layers) == 2
        assert all(label.startswith(found.family) for label in found.patterns)
        assert all(loss > 0 for row in found.heads for loss in row)


def test_the_files_hold_what_was_found(first: Ablation, home: Path) -> None:
    written = json.loads((home / "first.json").read_bytes())
    assert Ablation.from_json(written) == first
    rows = list(csv.DictReader((home / "first.csv").read_text().splitlines()))
    assert len(rows) == len(first.points)
    for row, point in zip(rows, first.points, strict=True):
        assert (row["curve"], int(row["length"]), row["plan_sha256"]) == (
            point.curve,
            point.length,
            point.plan.digest,
        )
        assert (float(row["left"]), float(row["high"])) == (point.left, point.high)
    written["verdicts"][0]["held"] = 0.99
    with pytest.raises(ValueError, match="verdicts are not what its points say"):
        Ablation.from_json(written)


def test_a_second_run_finds_the_same_and_runs_no_plan(
    first: Ablation, request_of: AblateRequest, model: ImportedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: PlanRunner, *arguments: object) -> None:
        raise AssertionError("a plan was run")

    monkeypatch.setattr(PlanRunner, "__call__", refuse)
    assert ablate(request_of, model=model) == first
    assert request_of.target(".csv").read_text() == first.to_csv()


@pytest.mark.usefixtures("first")
def test_a_budget_is_looked_at_more_closely(request_of: AblateRequest, model: ImportedModel) -> None:
    found = ablate(replace(request_of, budget="kl=0.01", lengths=LENGTHS[1:]), model=model)
    (verdict,) = found.verdicts()
    assert found.limits == (0.01,) and verdict.limit == 0.01
    if verdict.passed is not None:
        assert verdict.held < verdict.passed


@pytest.mark.usefixtures("first")
def test_the_time_limit_leaves_plans_out_and_says_so(request_of: AblateRequest, model: ImportedModel) -> None:
    found = ablate(replace(request_of, time_limit_s=1e-9), model=model)
    assert found.points == () and found.verdicts() == ()
    assert [warning.split(" at ")[0] for warning in found.warnings] == [
        "the time limit ended the measurements"
    ] * 2
    assert Ablation.from_json(json.loads(request_of.target(".json").read_bytes())) == found


def test_two_metrics_are_refused(request_of: AblateRequest, model: ImportedModel) -> None:
    with pytest.raises(UsageError, match="--metric nll and --budget kl=1 name two metrics"):
        ablate(replace(request_of, metric="nll", budget="kl=1"), model=model)


def test_a_folder_takes_both_files(tmp_path: Path) -> None:
    assert AblateRequest("m/x", tmp_path).target(".csv") == tmp_path / "ablation.csv"
    assert AblateRequest("m/x").target(".json") == Path("x.ablation.json")
    assert AblateRequest("m/x", tmp_path / "v1.2").target(".json") == tmp_path / "v1.2.json"


def point(left: float, high: float) -> Point:
    return Point(MAIN, "", 64, left, left, high / 2, 0.0, high, 24, Plan(()))


def test_a_verdict_ends_at_the_first_point_past_the_limit() -> None:
    points = [point(0.8, 0.001), point(0.5, 0.02), point(0.25, 0.005)]
    verdict = verdict_of(points, 0.01)
    assert verdict.held == pytest.approx(0.2) and verdict.passed == 0.5
    assert verdict_of(points, 0.03).passed is None
    assert verdict_of(points, 0.0001).held == 0.0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"curve": "guess"}, "point of curve 'guess'"),
        ({"left": 1.5}, "left is 1.5"),
        ({"high": float("nan")}, "wanted finite rising floats"),
        ({"low": 0.9}, "wanted finite rising floats"),
        ({"documents": 0}, "documents is 0"),
    ],
)
def test_a_point_checks_itself(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Point.from_json({**point(0.5, 0.01).to_json(), **change})
