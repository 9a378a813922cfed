"""`hcompile ablate`: how quality falls as attention is removed, beside what removal without a profile costs."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from hcompile.errors import EnvironmentFault, UsageError
from hcompile.frontend.load import ImportedModel, load_model
from hcompile.pipeline.ablation import Ablation
from hcompile.pipeline.certifying import text_encoder
from hcompile.pipeline.choosing import learnt_maps, usable_families
from hcompile.pipeline.curves import CONFIDENCE, LengthCurves, Ruler
from hcompile.pipeline.job import Job, check_output, prepare
from hcompile.pipeline.memory import StoredMemory
from hcompile.pipeline.request import OptimizeRequest
from hcompile.policy.calibration import Splits, beginnings
from hcompile.policy.documents import data_digest
from hcompile.policy.goal import Goal, goals_of
from hcompile.policy.interface import Interface
from hcompile.policy.metrics import metric_of
from hcompile.policy.removal import Removal
from hcompile.progress import Progress, quiet
from hcompile.runtime.inputs import length_axis
from hcompile.tuning_db.store import open_db

USUAL = {"kl": (0.003, 0.01, 0.03), "cosine": (0.001, 0.003, 0.01)}
"""Degradations that verdicts are given for where there is no budget, by metric."""

_COLLAPSED = 10.0
"""A curve ends this many times past the largest of these limits and the budget's."""

_UNLIMITED = float("inf")


@dataclass(frozen=True, slots=True)
class AblateRequest:
    """One removal curve.

    Attributes:
        model: as for `OptimizeRequest`, like every field that is not named here.
        output: a folder, or the beginning of the names of the two files to write; None for the model's name.
        budget: `metric=limit` to give a verdict for; None for the metric's usual limits.
        metric: a metric's name, or `package.module:function` of the user's; None for the budget's metric, else kl for
            a model with logits and cosine for another.
        calib: where profile and measurement documents come from.
        verify: other data to measure on.
        lengths: of rows; None for the longest that `optimize` would take.
        points: plans of each curve, but for those that a verdict asks for in between.
        time_limit_s: no plan is measured later than this.
    """

    model: str
    output: Path | None = None
    budget: str | None = None
    metric: str | None = None
    calib: str | None = None
    verify: str | None = None
    lengths: tuple[int, ...] | None = None
    families: tuple[str, ...] | None = None
    points: int = 8
    factory: str | None = None
    dtype: str | None = None
    trust: bool = False
    seed: int = 0
    time_limit_s: float | None = None
    db: str | None = None
    backend: str = "tvm_cpu"

    def __post_init__(self) -> None:
        if self.points < 1:
            raise UsageError(f"points {self.points}: a curve needs at least one")

    def target(self, suffix: str) -> Path:
        """Return where a file of the result goes, such as that of `.csv`."""
        if self.output is None:
            return Path(f"{Path(self.model).name or 'model'}.ablation{suffix}")
        if self.output.is_dir():
            return self.output / f"ablation{suffix}"
        return self.output.with_name(f"{self.output.name}{suffix}")


def ablate(
    request: AblateRequest, progress: Progress = quiet, *, model: ImportedModel | None = None
) -> Ablation:
    """Measure the removal curve of a model and its controls, and write it as CSV and as JSON.

    Args:
        model: as for `hcompile.optimize`.

    Raises:
        UsageError: the request, the model or the data cannot be used.
        EnvironmentFault: the machine lacks what the work needs, or the files cannot be written.
    """
    progress("import", 0, None)
    goal = _goal(request)
    if request.calib is None:
        raise UsageError(
            f"{request.model}: a curve is measured on data that the profile did not see: pass --calib with text like "
            "what the model will read (--calib stdlib is Python's own library)"
        )
    as_optimize = _as_optimize(request)
    check_output(as_optimize)
    if model is None:
        model = load_model(request.model, dtype=request.dtype, trust=request.trust, factory=request.factory)
    if goal is None:
        logits = Interface.of(model.program, length_axis(model.program)).logits
        goal = Goal("", metric_of("kl" if logits else "cosine"), _UNLIMITED)
    job = prepare(as_optimize, model, [goal])
    usual = USUAL.get(goal.metric.label(), ())
    limits = (goal.limit,) if goal.text else usual
    collapse = _COLLAPSED * max((*limits, *usual), default=_UNLIMITED)
    splits = _splits(request, job)
    lengths = _lengths(request, job, splits)
    chosen = usable_families(job.request, job.program, job.dtype)
    removals = [Removal.of(job.program.sites, length, chosen) for length in lengths]
    # What certifies stays unseen, for a later certificate.
    seen = replace(splits, certify=())
    cuts = [beginnings(seen, job.interface, length) for length in lengths]
    encode = text_encoder(job.program, job.interface, job.model.source)
    for shortened in cuts:
        # A metric that can make no documents of its own at one of the lengths says so before the work.
        goal.metric.documents(shortened.repair, job.interface, encode, request.seed)
    job = replace(job, maps=learnt_maps(job, progress))
    with open_db(request.db) as db:
        memory = StoredMemory(db, job.program, job.facts)
        ruler = Ruler(job, goal, limits, collapse, memory, request.time_limit_s, progress)
        curves = [
            LengthCurves(ruler, removal, cut, request.points)
            for removal, cut in zip(removals, cuts, strict=True)
        ]
        for each in curves:
            each.measure()
    result = Ablation(
        model=request.model,
        metric=goal.metric.label(),
        unit=goal.metric.unit,
        budget=goal.text,
        limits=tuple(map(float, limits)),
        confidence=CONFIDENCE,
        source=splits.domain,
        dtype=job.dtype,
        device=job.device.model,
        seed=request.seed,
        sites=job.program.sites,
        lengths=lengths,
        data_sha256=tuple(data_digest(each.documents) for each in curves),
        dense_pairs=tuple(each.removal.dense_pairs() for each in curves),
        points=tuple(point for each in curves for point in each.points),
        sensitivities=tuple(found for each in curves for found in each.sensitivities),
        warnings=(*job.warnings, *(warning for each in curves for warning in each.warnings)),
    )
    _write(request.target(".csv"), result.to_csv())
    _write(request.target(".json"), json.dumps(result.to_json(), allow_nan=False) + "\n")
    return result


def _goal(request: AblateRequest) -> Goal | None:
    """Return the metric with the budget's limit, None where the model decides. Raises: UsageError."""
    name = request.metric
    function = name if name is not None and ":" in name else None
    if request.budget is None:
        if name is None:
            return None
        metric = metric_of(name if function is None else name.rpartition(":")[2], function)
        return Goal("", metric, _UNLIMITED)
    (goal,) = goals_of((request.budget,), function)
    if name is not None and function is None and goal.metric.label() != metric_of(name).label():
        raise UsageError(f"--metric {name} and --budget {goal.text} name two metrics: give one")
    return goal


def _as_optimize(request: AblateRequest) -> OptimizeRequest:
    """Return the request of a dry run over the same model and data."""
    return OptimizeRequest(
        request.model,
        request.target(".json"),
        calib=request.calib,
        verify=request.verify,
        lengths=request.lengths,
        families=request.families,
        dry_run=True,
        factory=request.factory,
        dtype=request.dtype,
        trust=request.trust,
        seed=request.seed,
        db=request.db,
        backend=request.backend,
    )


def _splits(request: AblateRequest, job: Job) -> Splits:
    """Return documents to profile and, as the repair split, those to measure on.

    Where no other data is named these are the repair documents of `optimize`, so that the certificate of a later
    optimization still is from documents that nobody has looked at.
    """
    assert job.splits is not None, "prepare reads --calib"
    if request.verify is None:
        return job.splits
    return replace(job.splits, repair=job.splits.certify)


def _lengths(request: AblateRequest, job: Job, splits: Splits) -> tuple[int, ...]:
    """Return the lengths of the curves. Raises: UsageError when documents of named inputs would have to be cut."""
    documents = (*splits.profile, *splits.repair)
    if all(job.interface.is_text(document.tensors) for document in documents):
        return job.lengths if request.lengths is not None else job.lengths[-1:]
    if len(job.lengths) > 1 and request.lengths is not None:
        raise UsageError(
            f"--lengths {','.join(map(str, job.lengths))}: {request.calib} holds named inputs, which keep their "
            "shapes: give one length"
        )
    longest = max(job.interface.length_of(document.tensors) or 0 for document in documents)
    return (longest or job.length,)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EnvironmentFault(
            f"{path}: the curve could not be written ({error}); choose another place"
        ) from error
