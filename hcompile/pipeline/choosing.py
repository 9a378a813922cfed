"""The pipeline's choice of a plan: given by the user, or made by the policy on calibration data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hcompile.codegen import get_backend
from hcompile.errors import UsageError
from hcompile.frontend.load import ImportedModel
from hcompile.operator import Kernel, chosen_by
from hcompile.passes.far_field import has_far_field, insert_far_field
from hcompile.passes.refit import insert_refit, output_projections
from hcompile.passes.widening import insert_widening
from hcompile.patterns import Dense, Pattern, default_families, families, menu_of
from hcompile.pipeline.certifying import text_encoder
from hcompile.pipeline.kernels import PlanKernels
from hcompile.pipeline.plan_runner import PlanRunner
from hcompile.pipeline.request import OptimizeRequest
from hcompile.pipeline.shorter import at_shorter
from hcompile.plan import Plan
from hcompile.policy.calibration import Counts, Splits, load_splits, sample_splits
from hcompile.policy.feature_maps import learn_maps
from hcompile.policy.goal import Goal
from hcompile.policy.heads_under import NO_MAPS, Maps
from hcompile.policy.interface import Interface
from hcompile.policy.memory import Memory
from hcompile.policy.policy import HeadTime, Models, choose_plan
from hcompile.policy.refit import Refit, documents_for
from hcompile.policy.repair import Effort
from hcompile.policy.statistics import independent
from hcompile.policy.units import Unit, units_of
from hcompile.policy.widen import Widener, why_rigid
from hcompile.program import Program
from hcompile.progress import Progress
from hcompile.runtime.dispatch import ScheduleTable
from hcompile.site import Site

if TYPE_CHECKING:
    from hcompile.pipeline.job import Job


@dataclass(frozen=True, slots=True)
class Data:
    """Documents of a run, whether they are fit for a certificate, and what the user should know of them."""

    splits: Splits | None
    held_out: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """A plan, whether it may be used (nothing measured says otherwise), the policy's log for the report, where the
    plan's second weights come from, and what the user should know of it."""

    plan: Plan
    holds: bool
    log: dict[str, Any] | None
    refit: Refit | None = None
    warnings: tuple[str, ...] = ()


def read_splits(request: OptimizeRequest, model: ImportedModel, interface: Interface, length: int) -> Data:
    """Return the documents of a run, texts cut to `length` tokens.

    Raises:
        UsageError: the data cannot be used, or there is none and a plan must be chosen.
    """
    if request.verify is not None and request.calib is None:
        raise UsageError("--verify names data for the certificate alone: pass --calib for the choice too")
    if request.calib is not None:
        encode = text_encoder(model.program, interface, model.source)
        counts = Counts() if request.documents is None else Counts(*request.documents)
        learns = request.refit or _asks_for_far_fields(request)
        fit = max(0, documents_for(length) - counts.profile) if learns else 0
        splits = load_splits(
            request.calib,
            interface,
            encode,
            length,
            verify=request.verify,
            counts=replace(counts, fit=fit),
            seed=request.seed,
        )
        return Data(splits, held_out=True)
    if model.sample_inputs:
        warning = (
            "no --calib: the plan is chosen and measured on the model's own sample inputs, which are no held-out data; "
            "the artifact carries no certificate"
        )
        return Data(sample_splits(model.sample_inputs, interface, model.source), False, (warning,))
    if request.plan is not None:
        return Data(
            None,
            False,
            ("no --calib: the given plan was not measured, and the artifact carries no certificate",),
        )
    raise UsageError(
        f"{model.source}: a budget needs data to be measured on: pass --calib with text like what the model will read "
        "(--calib stdlib is Python's own library)"
    )


def choose(
    job: Job, share: float, kernels: PlanKernels, memory: Memory, progress: Progress, *, widen: bool = False
) -> Choice:
    """Take the user's plan, or let the policy choose one for documents of `job.length` tokens.

    Args:
        share: of each budget, within which to choose.
        widen: let the windows of the plan widen with the length.
    """
    request, program, length = job.request, job.program, job.length
    tables = kernels.any_table()
    refit = _refit(job, tables, progress) if request.refit else None
    if job.plan is not None:
        return Choice(job.plan, True, None, refit)
    if job.splits is None:
        raise UsageError(
            f"{job.model.source}: no plan was given and there is no data to choose one with: pass --calib"
        )
    fitted = program if refit is None else insert_refit(program, refit.start)
    placed = insert_far_field(fitted, job.maps)
    runner = PlanRunner(
        insert_widening(placed) if widen else placed,
        tables,
        request.backend,
        job.library,
        None if refit is None else refit.weights,
    )
    models = Models(
        program,
        partial(runner, Plan.dense(program.sites)),
        runner,
        any_kernel(job, tables),
        job.interface,
        text_encoder(program, job.interface, job.model.source),
        None if refit is None else refit.key(),
        job.maps,
    )
    goals = [replace(goal, limit=goal.limit * share) for goal in job.goals]
    result = choose_plan(
        models,
        candidates(request, program, length, job.dtype),
        job.splits,
        goals,
        _head_us(kernels, job.cost_length, request.cost),
        effort=Effort(time_limit_s=request.time_limit_s, reserve=request.reserve),
        memory=memory,
        seed=request.seed,
        progress=progress,
    )
    chosen = Choice(result.plan, result.holds, result.to_json(), refit)
    return _widened(job, chosen, models, goals, memory, progress) if widen else chosen


def _widened(
    job: Job, chosen: Choice, models: Models, goals: Sequence[Goal], memory: Memory, progress: Progress
) -> Choice:
    """Let a plan's windows widen up to the length that it was chosen for, and log what was tried."""
    if not chosen.holds or job.splits is None or chosen.log is None:
        return chosen
    shorter = at_shorter(models, job.splits, job.lengths[:-1], goals, job.request.seed, memory, progress)
    units = candidates(job.request, job.program, job.length, job.dtype)
    certify_documents = independent(job.splits.certify)
    widener = Widener(
        units, job.length, shorter, goals, job.request.reserve, certify_documents, job.request.seed
    )
    plan, tried = widener.widen(chosen.plan)
    told = () if plan.widens else (f"--widen: windows stay as they are, since {why_rigid(tried)}",)
    log = {**chosen.log, "widen": [each.to_json() for each in tried]}
    return replace(chosen, plan=plan, log=log, warnings=told)


def check_refit(request: OptimizeRequest, program: Program, data: Data) -> tuple[str, ...]:
    """Return warnings about what a refit will leave as it is.

    Raises:
        UsageError: it would leave everything, or has no documents.
    """
    if not request.refit:
        return ()
    if data.splits is None:
        raise UsageError(f"{request.model}: --refit fits weights to documents: pass --calib")
    found = output_projections(program)
    without = [site.name for site in program.sites if site.name not in found]
    if not found:
        raise UsageError(
            f"{request.model}: --refit wants causal attention whose heads go side by side into a linear layer, and "
            f"{without[0]} is not like that: leave --refit out"
        )
    told = (
        f"--refit leaves {len(without)} of {len(program.sites)} attentions as they are, such as {without[:1]}"
    )
    return (told + ": no linear layer takes their heads side by side",) if without else ()


def _refit(job: Job, tables: Mapping[str, ScheduleTable], progress: Progress) -> Refit:
    assert job.splits is not None  # `check_refit` saw to it
    return Refit(
        job.program,
        job.splits.taught,
        job.length,
        interface=job.interface,
        kernel=any_kernel(job, tables),
        maps=job.maps,
        progress=progress,
    )


def wants_maps(request: OptimizeRequest, plan: Plan | None, program: Program, data: Data) -> bool:
    """Return whether a given plan has linear far fields, or a chosen one may.

    Raises:
        UsageError: there is nothing to learn their features from.
    """
    if plan is None:
        wanted = _asks_for_far_fields(request)
    else:
        wanted = any(has_far_field(plan, site) for site in program.sites)
    if wanted and data.splits is None:
        raise UsageError(
            f"{request.model}: the plan has linear heads, whose features are learnt from documents: pass --calib"
        )
    return wanted


def learnt_maps(job: Job, progress: Progress) -> Maps:
    """Return the feature maps of linear far fields where the job wants some."""
    if not job.wants_maps:
        return NO_MAPS
    assert job.splits is not None  # `wants_maps` saw to it
    documents = job.splits.taught
    return learn_maps(
        job.program, documents, interface=job.interface, seed=job.request.seed, progress=progress
    )


def _asks_for_far_fields(request: OptimizeRequest) -> bool:
    asked = request.families or ()
    return any(pattern.has_far_field for family in asked for pattern in menu_of(family))


def _head_us(kernels: PlanKernels, length: int, cost: str) -> HeadTime:
    """Return the time of one head under a pattern, or what it would be if it followed the pairs."""
    if cost == "time":
        return lambda site, pattern: kernels.head_us(site, pattern, length)

    def by_pairs(site: Site, pattern: Pattern) -> float:
        visited, dense = (
            each.visited_pairs(length, length, causal=site.causal) for each in (pattern, Dense())
        )
        return kernels.head_us(site, Dense(), length) * visited / dense

    return by_pairs


def candidates(request: OptimizeRequest, program: Program, length: int, dtype: str) -> tuple[Unit, ...]:
    """Return the units of a program with the patterns that the target has kernels for.

    Raises:
        UsageError: nothing is left to choose.
    """
    return units_of(
        program.sites,
        length,
        granularity=request.granularity,
        keep_layers=request.keep_layers,
        chosen=usable_families(request, program, dtype),
    )


def usable_families(request: OptimizeRequest, program: Program, dtype: str) -> list[str]:
    """Return the families to choose from: those asked for that the target has kernels for."""
    backend = get_backend(request.backend)
    routes = all(backend.routes(dtype, site.head_dim) for site in program.sites)
    return [
        family
        for family in families()
        if family in (request.families or default_families())
        if routes or not any(pattern.reads_lists for pattern in menu_of(family))
    ]


def any_kernel(job: Job, tables: Mapping[str, ScheduleTable]) -> Kernel:
    """Return a kernel for the heads of any site of the program."""
    backend = get_backend(job.request.backend)
    kernels = {}
    for site in job.program.sites:
        schedule = tables[site.name].schedule(job.length)
        built = backend.build(schedule, job.dtype, site.head_dim, group=site.group, causal=site.causal)
        kernels[site.head_dim] = backend.load(built)
    return chosen_by(lambda q: kernels[q.shape[-1]])


def read_plan(path: Path, program: Program) -> Plan:
    """Return the plan of a file. Raises UsageError when there is none, or it does not fit the program."""
    try:
        plan = Plan.from_json(json.loads(path.read_bytes()))
        plan.check(program.sites)
    except OSError as error:
        raise UsageError(f"{path}: the plan cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: {error}") from error
    return plan
