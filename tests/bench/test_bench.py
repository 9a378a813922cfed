"""A whole benchmark of a small artifact, and lengths that it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hcompile.bench.bench import BenchRequest, bench
from hcompile.bench.memory import call_peak_bytes
from hcompile.errors import EnvironmentFault, UsageError
from hcompile.program import Program
from hcompile.runtime.crossover import Crossover
from hcompile.runtime.inputs import made_up_inputs
from tests.artifact.damage import change_manifest, copied


@pytest.mark.usefixtures("warm_cache")
@pytest.mark.parametrize("length", [0, 513])
def test_a_length_that_the_export_does_not_allow_is_refused(tiny_artifact: Path, length: int) -> None:
    with pytest.raises(
        UsageError, match=rf"length {length} is outside what the model was exported for \(1 to 512\)"
    ):
        bench(BenchRequest(tiny_artifact, (length,)))


@pytest.mark.usefixtures("warm_cache")
def test_a_batch_that_the_export_does_not_allow_is_refused(tiny_artifact: Path) -> None:
    with pytest.raises(UsageError, match=r"batch 0 is outside what the model was exported for \(1 to any\)"):
        bench(BenchRequest(tiny_artifact, (16,), batch=0))


def test_memory_of_no_artifact_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        EnvironmentFault, match=r"memory of a hybrid call could not be measured: .*no such art"
    ) as caught:
        call_peak_bytes(tmp_path / "missing.hcm", "hybrid", 8)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_cache")
def test_a_small_artifact_is_measured_at_every_length(tiny_artifact: Path) -> None:
    steps: list[tuple[int, int | None]] = []
    request = BenchRequest(tiny_artifact, (16, 64), memory=True, least=3, most=3, enough_s=0.0)
    report = bench(request, lambda stage, done, total: steps.append((done, total)))
    short, long = report.lengths
    assert (short.graph, long.graph) == ("dense", "hybrid") and report.batch == 1
    assert len(steps) == 3 and steps == sorted(steps)
    assert steps[0] == (0, 100) and steps[-1] == (100, 100)
    for result in report.lengths:
        assert set(result.dense) == {"eager", "compiled dynamic", "compiled static"}
        fastest = min(result.dense.values(), key=lambda spread: spread.median_us)
        assert result.dense[result.strongest] == fastest
        assert result.module.samples == result.rest.samples == 3
        assert result.ratio_low <= result.ratio_high and 0 < result.pairs_kept <= 1
        assert result.hybrid_peak_bytes is not None and result.hybrid_peak_bytes >= 0
        assert result.dense_peak_bytes is not None and result.dense_peak_bytes >= 0


@pytest.mark.slow
@pytest.mark.usefixtures("warm_cache")
def test_a_batch_is_measured_and_takes_the_graph_of_its_crossover(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = copied(tiny_artifact, tmp_path)
    change_manifest(artifact, crossover=Crossover(((1, None), (3, 16))).to_json())
    shapes: set[tuple[int, ...]] = set()

    def note(program: Program, *args: Any) -> list[torch.Tensor]:
        inputs = made_up_inputs(program, *args)
        shapes.update(tuple(value.shape) for value in inputs)
        return inputs

    monkeypatch.setattr("hcompile.runtime.inputs.made_up_inputs", note)
    request = BenchRequest(artifact, (16,), batch=3, memory=True, least=3, most=3, enough_s=0.0)
    report = bench(request)
    (result,) = report.lengths
    assert report.batch == 3 and result.graph == "hybrid" and result.module.samples == 3
    assert shapes == {(3, 16)}
    assert result.hybrid_peak_bytes is not None and result.hybrid_peak_bytes >= 0
