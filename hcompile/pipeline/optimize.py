"""`hcompile optimize`: the path of a model through the house, from top to bottom."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hcompile.artifact.write import write_artifact
from hcompile.errors import EnvironmentFault
from hcompile.frontend.load import ImportedModel
from hcompile.passes.far_field import insert_far_field
from hcompile.passes.refit import insert_refit, refit_facts
from hcompile.passes.select import select
from hcompile.passes.widening import insert_widening
from hcompile.pipeline.asked import asked
from hcompile.pipeline.attempts import ATTEMPTS, GIVEN
from hcompile.pipeline.beyond import measure_beyond
from hcompile.pipeline.certifying import certify_lowered, text_encoder
from hcompile.pipeline.choosing import Choice, choose, learnt_maps
from hcompile.pipeline.crossover import measure_crossover
from hcompile.pipeline.job import Job, prepare
from hcompile.pipeline.kernels import PlanKernels
from hcompile.pipeline.linear_library import linear_library
from hcompile.pipeline.memory import StoredMemory
from hcompile.pipeline.report import NodeTime, OptimizeReport
from hcompile.pipeline.request import OptimizeRequest
from hcompile.pipeline.shorter import measure_shorter
from hcompile.pipeline.stages import Stages
from hcompile.pipeline.tuning import tune_options
from hcompile.plan import Plan
from hcompile.policy.certificate import Certificate
from hcompile.policy.documents import Document, data_digest
from hcompile.policy.heads_under import maps_digest
from hcompile.policy.refit import Refit
from hcompile.program import Program
from hcompile.progress import Progress, quiet
from hcompile.runtime.crossover import Crossover
from hcompile.runtime.dispatch import ScheduleTable
from hcompile.runtime.module import Lowered
from hcompile.tuning.tune import Tuner
from hcompile.tuning_db.store import open_db
from hcompile.versions import library_versions


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A plan with its kernels: what the certificate is about and the artifact holds."""

    program: Program
    lowered: Lowered
    tables: Mapping[str, ScheduleTable]
    nodes: tuple[NodeTime, ...]
    refit: Refit | None


def optimize(
    request: OptimizeRequest, progress: Progress = quiet, *, model: ImportedModel | None = None
) -> OptimizeReport:
    """Make a model faster within a quality budget, and write the artifact.

    Where no plan holds all budgets, the artifact is the dense model and the report's outcome is "dense".

    Args:
        model: a model that is no file, such as `hcompile.load_module(net, example)`; `request.model` only names it.

    Raises:
        UsageError: the request, the model or the data cannot be used.
        KernelError: no kernel is valid for the model's attention.
        EnvironmentFault: the machine lacks what the work needs, or the artifact cannot be written.
    """
    stages = Stages()
    with stages("import"):
        progress("import", 0, None)
        job = prepare(request, model)
    options = tune_options(request.trials, request.time_limit_s, request.seed)
    with open_db(request.db) as db, Tuner(request.backend, db, options) as tuner:
        job = replace(job, library=linear_library(db, job.program, job.device))
        memory = StoredMemory(db, job.program, job.facts)
        kernels = PlanKernels(job.program, job.lengths, request.backend, tuner, memory)
        with stages("tune"):
            kernels.tune(progress)
        with stages("features"):
            job = replace(job, maps=learnt_maps(job, progress))
        certificate = None
        for attempt in ATTEMPTS if job.plan is None and job.held_out else GIVEN:
            with stages("choose"):
                widen = job.request.widen and attempt is ATTEMPTS[0]
                choice = choose(job, attempt.share, kernels, memory, progress, widen=widen)
                job = replace(job, warnings=(*job.warnings, *choice.warnings))
            if request.dry_run:
                _write_plan(request.target, choice.plan)
                return _report(job, choice, "plan", stages, tuner.measured)
            compiled = None
            if not choice.holds:
                break
            with stages("compile"):
                progress("compile", 0, None)
                tables, nodes = kernels.tables(choice.plan), kernels.node_times(choice.plan, job.length)
                compiled = _lower(job, choice.plan, tables, nodes, choice.refit)
            with stages("certify"):
                certify = partial(_certify, job, compiled, attempt.confidence, memory, progress)
                certificate = certify(job.splits.certify) if job.splits is not None and job.held_out else None
                if certificate is not None and certificate.holds and choice.plan.widens:
                    certificate = measure_shorter(certificate, job.shorter, certify)
            if certificate is None:
                break
            if certificate.holds:
                if job.longer:
                    with stages("beyond"):
                        longer = partial(certify, stage="beyond")
                        certificate, warnings = measure_beyond(certificate, job.longer, longer)
                    job = replace(job, warnings=(*job.warnings, *warnings))
                break
            job = replace(job, warnings=(*job.warnings, _failed(certificate, widen)))
        measured = tuner.measured
        if compiled is None or (certificate is not None and not certificate.holds):
            outcome, crossover = "dense", Crossover()
            # Every call takes torch's own attention, so the schedules only have to be there.
            compiled = _lower(job, Plan.dense(job.program.sites), kernels.any_table(), ())
        else:
            outcome = "hybrid"
            with stages("crossover"):
                crossover = measure_crossover(
                    compiled.program, compiled.lowered, job.axis, job.length, progress, request.seed
                )
    with stages("write"):
        kept = certificate if outcome == "hybrid" else None
        _write_artifact(job, compiled, crossover, kept)
    return _report(job, choice, outcome, stages, measured, compiled, certificate, crossover)


def _lower(
    job: Job,
    plan: Plan,
    tables: Mapping[str, ScheduleTable],
    nodes: tuple[NodeTime, ...],
    refit: Refit | None = None,
) -> _Compiled:
    program = select(job.program, plan)
    if refit is not None:
        program = insert_refit(program, refit.start, refit.weights(plan))
    program = insert_widening(insert_far_field(program, job.maps))
    lowered = Lowered.of(program, job.model.original, tables, job.request.backend, job.library)
    return _Compiled(program, lowered, tables, nodes, refit)


def _failed(certificate: Certificate, widens: bool) -> str:
    at = {"": certificate.claims} | {f" at {step.length} tokens": step.claims for step in certificate.shorter}
    told = ", ".join(
        f"{claim.metric} {claim.estimate:.3g}, at most {claim.bound:.3g}{where}"
        for where, claims in at.items()
        for claim in claims
        if not claim.holds
    )
    careful = "a more careful one, whose windows stay as they are," if widens else "a more careful one"
    return f"a plan was not certified on fresh documents ({told}); {careful} is tried once"


def _certify(
    job: Job,
    compiled: _Compiled,
    confidence: float,
    memory: StoredMemory,
    progress: Progress,
    documents: Sequence[Document],
    stage: str = "certify",
) -> Certificate:
    """Certify the lowered module on documents that nothing has seen; the same module is certified once on them."""
    plan = compiled.program.plan
    domain = "" if job.splits is None else job.splits.domain
    key = {
        "plan": None if plan is None else plan.digest,
        "refit": None if compiled.refit is None else compiled.refit.key(),
        "maps": maps_digest(job.maps),
        "schedules": {name: table.to_json() for name, table in compiled.tables.items()},
        "goals": [goal.key() for goal in job.goals],
        "data": data_digest(documents),
        "domain": domain,
        "units": [document.unit for document in documents],
        "confidence": confidence,
        "seed": job.request.seed,
    }
    known = memory.recall("pipeline.certificate", key)
    if known is not None:
        return Certificate.from_json(known)
    certificate = certify_lowered(
        compiled.program,
        compiled.lowered,
        job.interface,
        documents,
        encode=text_encoder(job.program, job.interface, job.model.source),
        goals=job.goals,
        domain=domain,
        dtype=job.dtype,
        device=job.device.model,
        confidence=confidence,
        seed=job.request.seed,
        progress=progress,
        stage=stage,
    )
    memory.keep("pipeline.certificate", key, certificate.to_json())
    return certificate


def _write_artifact(
    job: Job, compiled: _Compiled, crossover: Crossover, certificate: Certificate | None
) -> None:
    facts = {
        "versions": library_versions(),
        "source": job.model.source,
        "kind": job.model.kind,
        "dtype": job.dtype,
        "backend": job.request.backend,
        "device": job.device.to_json(),
        "linear_library": job.library,
        "length_axis": job.axis,
        "crossover": crossover.to_json(),
        "certificate": None if certificate is None else certificate.to_json(),
        "notes": {
            "budgets": list(job.request.budgets),
            "metric": job.request.metric,
            "refit": refit_facts(compiled.program),
        },
    }
    write_artifact(job.request.target, compiled.program, job.model.original, compiled.tables, facts)


def _write_plan(path: Path, plan: Plan) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(json.dumps(plan.to_json(), indent=1) + "\n")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EnvironmentFault(
            f"{path}: the plan could not be written ({error}); choose another place"
        ) from error


def _report(
    job: Job,
    choice: Choice,
    outcome: str,
    stages: Stages,
    kernels_measured: int,
    compiled: _Compiled | None = None,
    certificate: Certificate | None = None,
    crossover: Crossover | None = None,
) -> OptimizeReport:
    program = job.program
    plan = choice.plan if outcome != "dense" else Plan.dense(program.sites)
    json_form: Any = None if certificate is None else certificate.to_json()
    return OptimizeReport(
        output=str(job.request.target),
        outcome=outcome,
        sites=program.sites,
        left=program.left,
        guards=program.guards,
        plan=plan,
        removed={length: plan.removed_share(program.sites, length) for length in job.lengths},
        certificate=json_form,
        policy=choice.log,
        nodes=() if compiled is None else compiled.nodes,
        crossover=None if crossover is None else crossover.to_json(),
        linear_library=job.library,
        stages=stages.seconds,
        kernels_measured=kernels_measured,
        warnings=job.warnings,
        run=asked(job),
        refit=None if compiled is None else refit_facts(compiled.program),
    )
