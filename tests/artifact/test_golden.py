"""Artifacts of earlier versions keep loading, and give what they gave."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hcompile.artifact.load import TuningWarning, check_files, open_artifact, read_manifest, read_program
from hcompile.runtime.crossover import Crossover
from hcompile.runtime.dispatch import bind_program, safe_tables

DATA = Path(__file__).parents[1] / "data"
GOLDEN = sorted(DATA.glob("golden-*.hcm"))


def test_there_is_a_small_golden_artifact_of_each_schema() -> None:
    assert [path.name for path in GOLDEN] == ["golden-1.hcm", "golden-2.hcm"]
    for path in GOLDEN:
        assert sum(file.stat().st_size for file in path.iterdir()) < 60_000


def test_its_crossover_is_what_it_was() -> None:
    old, new = (Crossover.from_json(read_manifest(path).crossover) for path in GOLDEN)
    assert old == Crossover.from_length(16)
    assert new.hybrid_from == ((1, 24), (2, 16)) and len(new.timings) == 3


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_its_graph_computes_what_it_computed(path: Path) -> None:
    manifest = read_manifest(path)
    check_files(path, manifest)
    program, _ = read_program(path, manifest)
    expected = load_file(path.with_suffix(".safetensors"))
    mask = expected["attention_mask"]
    (logits,) = program.run(expected["input_ids"], mask)
    torch.testing.assert_close(logits[mask.bool()], expected["logits"][mask.bool()], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("warm_cache")
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_it_loads_with_safe_schedules_and_gives_the_same_logits(path: Path) -> None:
    with pytest.warns(TuningWarning, match="tuned on no machine"):
        opened = open_artifact(path)
    tables = safe_tables(opened.program, "tvm_cpu")
    assert set(tables) == {site.name for site in opened.program.sites}
    expected = load_file(path.with_suffix(".safetensors"))
    mask = expected["attention_mask"]
    # Run eagerly: that Inductor compiles such a graph is tested with other models.
    (found,) = bind_program(opened.program, tables, "tvm_cpu").run(expected["input_ids"], mask)
    torch.testing.assert_close(found[mask.bool()], expected["logits"][mask.bool()], rtol=1e-4, atol=1e-5)
