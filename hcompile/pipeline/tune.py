"""`hcompile tune`: schedules and crossover of an artifact for the machine at hand; its plan stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcompile.artifact.load import read_manifest, read_program
from hcompile.artifact.write import write_artifact
from hcompile.codegen import get_backend
from hcompile.passes.place import place_both
from hcompile.pipeline.crossover import measure_crossover
from hcompile.pipeline.kernels import PlanKernels
from hcompile.pipeline.linear_library import linear_library
from hcompile.pipeline.report import NodeTime
from hcompile.pipeline.stages import Stages
from hcompile.pipeline.tuning import chosen_lengths, tune_options
from hcompile.progress import Progress, quiet
from hcompile.runtime.module import Lowered
from hcompile.tuning.tune import Tuner
from hcompile.tuning_db.store import open_db
from hcompile.versions import library_versions


@dataclass(frozen=True, slots=True)
class TuneRequest:
    """What to tune.

    Attributes:
        lengths: tokens to tune for; None chooses from the model.
        trials: kernels measured for each workload, None for the default.
        time_limit_s: when to stop searching.
        db: path or URL of the tuning database.
    """

    artifact: Path
    lengths: tuple[int, ...] | None = None
    trials: int | None = None
    time_limit_s: float | None = None
    seed: int = 0
    db: str | None = None


@dataclass(frozen=True, slots=True)
class TuneReport:
    """What tuning did: seconds by stage, kernels measured in this run, times of the plan's nodes, the new crossover."""

    artifact: str
    stages: Mapping[str, float]
    kernels_measured: int
    nodes: tuple[NodeTime, ...]
    crossover: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "artifact": self.artifact,
            "stages": dict(self.stages),
            "kernels_measured": self.kernels_measured,
            "nodes": [node.to_json() for node in self.nodes],
            "crossover": dict(self.crossover),
        }


def tune(request: TuneRequest, progress: Progress = quiet) -> TuneReport:
    """Tune an artifact for this machine and write it again.

    Raises:
        UsageError: the artifact cannot be used.
        KernelError: no schedule of a workload is valid here.
        EnvironmentFault: the database or the artifact cannot be written.
    """
    stages = Stages()
    manifest = read_manifest(request.artifact)
    program, original = read_program(request.artifact, manifest)
    backend = get_backend(manifest.backend)
    program, original = place_both(program, original, backend.torch_device())
    plan = program.plan
    assert plan is not None, "read_program refuses artifacts without a plan"
    lengths = chosen_lengths(request.lengths, program, manifest.length_axis)
    options = tune_options(request.trials, request.time_limit_s, request.seed)
    with open_db(request.db) as db, Tuner(manifest.backend, db, options) as tuner:
        kernels = PlanKernels(program, lengths, manifest.backend, tuner)
        with stages("tune"):
            kernels.tune(progress)
            tables, nodes = kernels.tables(plan), kernels.node_times(plan, lengths[-1])
        measured = tuner.measured
        library = linear_library(db, program, backend.device())
    lowered = Lowered.of(program, original, tables, manifest.backend, library)
    with stages("crossover"):
        crossover = measure_crossover(
            program, lowered, manifest.length_axis, lengths[-1], progress, request.seed
        )
    facts = {
        **{name: getattr(manifest, name) for name in ("source", "kind", "dtype", "backend", "length_axis")},
        "versions": library_versions(),
        "device": backend.device().to_json(),
        "linear_library": library,
        "crossover": crossover.to_json(),
        "certificate": manifest.certificate,
        "notes": manifest.notes,
    }
    write_artifact(request.artifact, program, original, tables, facts)
    return TuneReport(str(request.artifact), stages.seconds, measured, nodes, crossover.to_json())
