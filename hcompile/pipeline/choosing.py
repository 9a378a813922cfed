"""The pipeline's choice of a plan: given by the user, or made by the policy on calibration data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hcompile.codegen import get_backend
from hcompile.errors import UsageError
from hcompile.frontend.load import ImportedModel
from hcompile.operator import Kernel, chosen_by
from hcompile.patterns import Dense, Pattern, families, menu_of
from hcompile.pipeline.certifying import text_encoder
from hcompile.pipeline.kernels import PlanKernels
from hcompile.pipeline.plan_runner import PlanRunner
from hcompile.pipeline.request import OptimizeRequest
from hcompile.plan import Plan
from hcompile.policy.calibration import Splits, load_splits, sample_splits
from hcompile.policy.interface import Interface
from hcompile.policy.memory import Memory
from hcompile.policy.policy import HeadTime, Models, choose_plan
from hcompile.policy.repair import Effort
from hcompile.policy.units import Unit, units_of
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
    """A plan, whether it may be used (nothing measured says otherwise), and the policy's log for the report."""

    plan: Plan
    holds: bool
    log: dict[str, Any] | None


def read_splits(request: OptimizeRequest, model: ImportedModel, interface: Interface, length: int) -> Data:
    """Return the documents of a run, texts cut to `length` tokens.

    Raises:
        UsageError: the data cannot be used, or there is none and a plan must be chosen.
    """
    if request.verify is not None and request.calib is None:
        raise UsageError("--verify names data for the certificate alone: pass --calib for the choice too")
    if request.calib is not None:
        encode = text_encoder(model.program, interface, model.source)
        splits = load_splits(
            request.calib, interface, encode, length, verify=request.verify, seed=request.seed
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


def choose(job: Job, share: float, kernels: PlanKernels, memory: Memory, progress: Progress) -> Choice:
    """Take the user's plan, or let the policy choose one for documents of `job.length` tokens.

    Args:
        share: of each budget, within which to choose.
    """
    request, program, length = job.request, job.program, job.length
    if job.plan is not None:
        return Choice(job.plan, True, None)
    if job.splits is None:
        raise UsageError(
            f"{job.model.source}: no plan was given and there is no data to choose one with: pass --calib"
        )
    tables = kernels.any_table()
    runner = PlanRunner(program, tables, request.backend, job.library)
    models = Models(
        program,
        partial(runner, Plan.dense(program.sites)),
        runner,
        any_kernel(job, tables),
        job.interface,
        text_encoder(program, job.interface, job.model.source),
    )
    result = choose_plan(
        models,
        candidates(request, program, length, job.dtype),
        job.splits,
        [replace(goal, limit=goal.limit * share) for goal in job.goals],
        _head_us(kernels, length, request.cost),
        effort=Effort(time_limit_s=request.time_limit_s),
        memory=memory,
        seed=request.seed,
        progress=progress,
    )
    return Choice(result.plan, result.holds, result.to_json())


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
        for family in request.families or families()
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
