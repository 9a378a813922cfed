"""A loaded artifact with a shadow: what it is held to, and what it shows of a real hybrid."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import hcompile
from hcompile import ShadowOptions, ShadowReport
from hcompile.errors import UsageError
from hcompile.policy.certificate import Certificate, Claim
from hcompile.runtime.module import CompiledModule
from hcompile.shadow.shadow import Shadow
from tests.artifact.damage import change_manifest, copied

PATIENCE_S = 60.0
CLAIM = Claim("kl", "nats a token", limit=0.003, estimate=0.002, bound=0.0025, confidence=0.95, tokens=4096)
CERTIFICATE: dict[str, Any] = {
    "documents": 64,
    "shortest": 60,
    "longest": 64,
    "rows": 2,
    "padded_rows": 8,
    "data_sha256": "0" * 64,
    "domain": "text",
    "unit_of_data": "whole",
    "dtype": "float32",
    "device": "CPU",
    "plan_sha256": "0" * 64,
}


def own_metric(dense: list[torch.Tensor], hybrid: list[torch.Tensor], inputs: list[torch.Tensor]) -> Any:
    """The own metric that a certificate below is of."""
    return torch.full((inputs[0].shape[0],), 0.5)


def certified(artifact: Path, folder: Path, *before: str, **changes: Any) -> Path:
    """Return a copy of an artifact that carries a certificate: of the metrics `before`, and a claim with changes."""
    path = copied(artifact, folder)
    claims = (*(replace(CLAIM, metric=name) for name in before), replace(CLAIM, **changes))
    change_manifest(path, certificate=Certificate(claims=claims, **CERTIFICATE).to_json())
    return path


def shadow_of(module: CompiledModule) -> Shadow:
    assert module.shadow is not None
    return module.shadow


def ids_of(seed: int, length: int = 64) -> torch.Tensor:
    return torch.randint(64, (1, length), generator=torch.Generator().manual_seed(seed))


def call(module: CompiledModule, calls: int, *, padded: bool = False) -> ShadowReport:
    """Make calls, each of which is compared before the next."""
    for seed in range(calls):
        ids = ids_of(seed)
        mask = torch.ones_like(ids)
        mask[:, :5] = 0
        module(ids, mask) if padded else module(ids)
        assert shadow_of(module).drain(PATIENCE_S)
    return shadow_of(module).report()


@pytest.mark.usefixtures("warm_cache")
def test_a_hybrid_that_loses_more_than_is_certified_drifts(tiny_artifact: Path, tmp_path: Path) -> None:
    measured = call(hcompile.load(certified(tiny_artifact, tmp_path), shadow=1), 8)
    assert measured.mean is not None and measured.mean > 0
    reports: list[ShadowReport] = []
    path = certified(tiny_artifact, tmp_path / "2", limit=measured.mean / 4)
    module = hcompile.load(path, shadow=ShadowOptions(1.0, window=50), on_drift=reports.append)
    found = call(module, 60)
    assert found.drifting and len(reports) == 1 and reports[0].artifact == str(path)
    assert (found.calls, found.compared, found.dropped, found.failed) == (60, 60, 0, 0)
    assert shadow_of(module).close(PATIENCE_S)


@pytest.mark.usefixtures("warm_cache")
@pytest.mark.parametrize("padded", [False, True])
def test_a_hybrid_within_its_certificate_does_not(
    tiny_artifact: Path, tiny_hybrid: Any, tiny_program: Any, tmp_path: Path, padded: bool
) -> None:
    module = hcompile.load(certified(tiny_artifact, tmp_path, limit=1.0), shadow=1)
    report = call(module, 4, padded=padded)
    assert not report.drifting and report.failed == 0
    expected = []
    for seed in range(4):
        ids = ids_of(seed)
        mask = torch.ones_like(ids)
        mask[:, : 5 if padded else 0] = 0
        p, q = (
            run.run(ids, mask)[0][mask.bool()].double().log_softmax(-1) for run in (tiny_program, tiny_hybrid)
        )
        expected.append((p.exp() * (p - q)).sum(-1))
    assert report.mean == pytest.approx(float(torch.cat(expected).mean()), rel=1e-2)


@pytest.mark.usefixtures("warm_cache")
def test_dense_calls_prove_nothing_and_are_not_counted(tiny_artifact: Path, tmp_path: Path) -> None:
    module = hcompile.load(certified(tiny_artifact, tmp_path), shadow=1)
    module(ids_of(0, 16))
    assert shadow_of(module).report().calls == 0


@pytest.mark.usefixtures("warm_cache")
def test_a_module_that_is_forgotten_goes_with_its_shadow(tiny_artifact: Path, tmp_path: Path) -> None:
    module = hcompile.load(certified(tiny_artifact, tmp_path), shadow=1)
    call(module, 1)
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None


@pytest.mark.usefixtures("warm_cache")
def test_without_a_shadow_there_is_none(tiny_artifact: Path) -> None:
    assert hcompile.load(tiny_artifact).shadow is None
    with pytest.raises(UsageError, match=r"on_drift is never called without a shadow: pass shadow=0.001 too"):
        hcompile.load(tiny_artifact, on_drift=print)


@pytest.mark.usefixtures("warm_cache")
def test_without_a_certificate_a_budget_says_what_drift_is(tiny_artifact: Path) -> None:
    with pytest.raises(UsageError, match=r"carries no certificate.*optimize with --calib, or pass") as caught:
        hcompile.load(tiny_artifact, shadow=0.5)
    assert "\n" not in str(caught.value)
    report = shadow_of(
        hcompile.load(tiny_artifact, shadow=ShadowOptions(0.5, budget="cosine=0.999"))
    ).report()
    assert report.metric == "cosine" and report.limit == pytest.approx(0.001)
    for budget in ("recall=0.98", "greedy=0.9"):
        with pytest.raises(UsageError, match="is measured on documents made for it, which calls are not"):
            hcompile.load(tiny_artifact, shadow=ShadowOptions(0.5, budget=budget))
    with pytest.raises(UsageError, match="shadow: budget 'kl' is not of the form"):
        hcompile.load(tiny_artifact, shadow=ShadowOptions(0.5, budget="kl"))


@pytest.mark.usefixtures("warm_cache")
def test_code_that_a_certificate_names_runs_only_if_it_is_passed(tiny_artifact: Path, tmp_path: Path) -> None:
    name = f"{__name__}:own_metric"
    path = certified(tiny_artifact, tmp_path, metric=name, limit=0.6)
    for options in (ShadowOptions(0.5), ShadowOptions(0.5, metric="elsewhere:own_metric")):
        with pytest.raises(UsageError, match=r"metric=\.\.\.\) to run a metric that is no part of hcompile"):
            hcompile.load(path, shadow=options)
    report = call(hcompile.load(path, shadow=ShadowOptions(1, metric=name)), 2)
    assert report.metric == name and report.mean == 0.5 and report.limit == 0.6


@pytest.mark.usefixtures("warm_cache")
def test_a_certificate_that_says_nothing_is_refused(tiny_artifact: Path, tmp_path: Path) -> None:
    path = copied(tiny_artifact, tmp_path)
    change_manifest(path, certificate={"schema": 7})
    with pytest.raises(UsageError, match="a certificate is an object of schema 1, 2, 3 or 4"):
        hcompile.load(path, shadow=0.5)


@pytest.mark.usefixtures("warm_cache")
def test_of_several_claims_the_first_that_calls_can_be_held_to_is_watched(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    path = certified(
        tiny_artifact, tmp_path, "recall", "kl.p99", "elsewhere:metric", metric="nll", limit=0.01
    )
    report = shadow_of(hcompile.load(path, shadow=0.5)).report()
    assert (report.metric, report.limit) == ("nll", 0.01)
    path = certified(tiny_artifact, tmp_path / "2", metric="kl.p99")
    with pytest.raises(
        UsageError, match=r"its certificate is of 'kl\.p99', which calls alone cannot be held to"
    ):
        hcompile.load(path, shadow=0.5)
