"""Random small models through optimize, save, load and run: dense ones are the model, hybrid ones are their plan."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import hcompile
from hcompile.frontend.load import ImportedModel
from hcompile.passes.select import select
from hcompile.pipeline.optimize import optimize
from hcompile.pipeline.request import OptimizeRequest
from hcompile.plan import Plan
from hcompile.runtime.crossover import Crossover
from hcompile.runtime.inputs import length_axis, limits
from hcompile.runtime.module import CompiledModule
from tests.pipeline.random_models import EXAMPLE, LONGEST, RandomModel, inputs_of, model_of, plan_of
from tests.pipeline.rounding import close, rounding

DEFAULT = (2, 10, 15)
"""Seeds that have, between them, what `test_the_default_seeds_cover_every_choice` lists."""

LENGTH = 128
"""Tokens that plans are made for: a head can become local from 81 on."""

BATCH, CALLED = 3, 101

_FRESH = """
import sys, torch, hcompile
from hcompile.runtime.crossover import Crossover
for path in sys.argv[1:]:
    model = hcompile.load(path + ".hcm")
    model.crossover = Crossover.from_length(1)
    (found,) = model(**torch.load(path + ".inputs")).values()
    torch.save(found, path + ".fresh")
"""


@dataclass(frozen=True)
class Case:
    """One random model, imported, with the folder of its artifacts."""

    seed: int
    model: RandomModel
    imported: ImportedModel
    folder: Path

    @property
    def name(self) -> str:
        (name,) = self.imported.program.output_tree
        return str(name)

    @property
    def terms(self) -> int:
        return max(2 * self.model.shape.width, CALLED)

    def inputs(self) -> dict[str, Tensor]:
        return inputs_of(self.model.shape, self.seed + 1, BATCH, CALLED)

    def valid(self, output: Tensor) -> Tensor:
        """Return the outputs of tokens that are no padding, `[tokens, features]`."""
        mask = self.inputs().get("attention_mask", torch.ones(BATCH, CALLED))
        return output[mask.bool()]

    def optimized(self, plan: Plan | None) -> CompiledModule:
        """Return the loaded module of a plan, or of a budget that none holds."""
        what = "none" if plan is None else "dense" if plan == self.dense else "hybrid"
        path = self.folder / f"{self.seed}-{what}"
        if plan is not None:
            path.with_suffix(".json").write_text(json.dumps(plan.to_json()))
        request = OptimizeRequest(
            f"random-{self.seed}",
            path.with_suffix(".hcm"),
            budget="cosine=1",
            plan=None if plan is None else path.with_suffix(".json"),
            lengths=(LENGTH,),
            trials=1,
        )
        report = optimize(request, model=self.imported)
        assert report.outcome == ("dense" if plan is None else "hybrid")
        found = hcompile.load(report.output)
        assert isinstance(found, CompiledModule)
        return found

    @property
    def dense(self) -> Plan:
        return Plan.dense(self.imported.program.sites)

    def close(self, found: Tensor, expected: Tensor) -> None:
        close(self.valid(found), self.valid(expected), self.model.shape.depth, self.terms)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tuning database and kernels for all seeds."""
    folder = tmp_path_factory.mktemp("random")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HCOMPILE_CACHE_DIR", str(folder / "cache"))
        yield folder


@pytest.fixture(autouse=True)
def cache_dir(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let every test use what the first ones measured and built, and time no graph: both of them are called."""
    monkeypatch.setenv("HCOMPILE_CACHE_DIR", str(home / "cache"))
    monkeypatch.setattr("hcompile.pipeline.optimize.measure_crossover", lambda *_: Crossover())
    return home / "cache"


@pytest.fixture(
    scope="module",
    params=[*DEFAULT, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(100, 120))],
)
def case(request: pytest.FixtureRequest, home: Path) -> Case:
    model = model_of(request.param)
    example = ((), inputs_of(model.shape, request.param, *EXAMPLE))
    return Case(request.param, model, hcompile.load_module(model, example, f"random-{request.param}"), home)


def test_the_default_seeds_cover_every_choice() -> None:
    shapes = [model_of(seed).shape for seed in DEFAULT]
    for choice in ("causal", "padded", "rotary"):
        assert {getattr(shape, choice) for shape in shapes} == {True, False}
    assert (
        {shape.window is None for shape in shapes} == {shape.group == 1 for shape in shapes} == {True, False}
    )


def test_a_dense_plan_is_the_model_and_a_hybrid_one_is_its_reference(case: Case) -> None:
    program, inputs = case.imported.program, case.inputs()
    assert len(program.sites) == case.model.shape.depth and not program.left
    with torch.no_grad():
        expected = case.model(**inputs)[case.name]
    assert limits(program, length_axis(program))[1] == (None if case.model.shape.rotary else LONGEST)
    # Out of reach, so torch's own attention in turn with a dense plan that was given, which runs our kernels.
    given = case.seed % 2 == 1
    dense = case.optimized(case.dense if given else None)
    if given:
        dense.crossover = Crossover.from_length(1)
    case.close(dense(**inputs)[case.name], expected)

    plan = plan_of(program, case.seed)
    hybrid = case.optimized(plan)
    assert hybrid.plan == plan
    hybrid.crossover = Crossover()
    case.close(hybrid(**inputs)[case.name], expected)
    hybrid.crossover = Crossover.from_length(1)
    found = hybrid(**inputs)[case.name]
    with torch.no_grad():
        reference = select(program, plan.at(CALLED)).run(*inputs.values())[0]
    case.close(found, reference)
    apart = float((case.valid(found) - case.valid(expected)).abs().max())
    assert apart > 10 * rounding(case.valid(expected), case.model.shape.depth, case.terms)
    torch.save(inputs, case.folder / f"{case.seed}-hybrid.inputs")
    torch.save(found, case.folder / f"{case.seed}-hybrid.found")


@pytest.mark.slow
def test_a_fresh_process_gives_what_this_one_gives(home: Path) -> None:
    """Of every seed that this run has been through, in one process."""
    paths = [path.with_suffix("") for path in sorted(home.glob("*.found"))]
    assert paths, "run the whole file: this test reads what the others wrote"
    subprocess.run([sys.executable, "-c", _FRESH, *map(str, paths)], check=True, timeout=600)
    for path in paths:
        seed = int(path.name.partition("-")[0])
        shape = model_of(seed).shape
        found, fresh = (torch.load(f"{path}.{end}") for end in ("found", "fresh"))
        inputs = torch.load(f"{path}.inputs")
        valid = inputs.get("attention_mask", torch.ones(found.shape[:2])).bool()
        close(fresh[valid], found[valid], shape.depth, max(2 * shape.width, CALLED))
