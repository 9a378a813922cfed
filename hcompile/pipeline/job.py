"""A job: the imported model and everything about a run that is known before work begins."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from hcompile.artifact.write import check_target
from hcompile.budget import Budget
from hcompile.codegen import get_backend
from hcompile.errors import EnvironmentFault, UsageError
from hcompile.frontend.load import ImportedModel, load_model
from hcompile.passes.linear import faster_library
from hcompile.pipeline.choosing import read_plan, read_splits
from hcompile.pipeline.importing import fit_to
from hcompile.pipeline.request import OptimizeRequest
from hcompile.pipeline.tuning import default_lengths
from hcompile.plan import Plan
from hcompile.policy.calibration import Splits
from hcompile.policy.interface import Interface
from hcompile.policy.metrics import metric_of
from hcompile.program import Program
from hcompile.runtime.dispatch import compute_dtype
from hcompile.runtime.inputs import length_axis, longest
from hcompile.tuning_db.key import Device


@dataclass(frozen=True, slots=True)
class Job:
    """See the module's docstring.

    Attributes:
        plan: the user's, None where the policy chooses one.
        axis: see `hcompile.runtime.inputs.length_axis`.
        lengths: rising; plans are made for the last one, and schedules for all.
        splits: documents, None where nothing is to be measured.
        held_out: the documents are fit for a certificate.
        library: what multiplies weight matrices (`hcompile.passes.linear`).
    """

    request: OptimizeRequest
    budget: Budget
    model: ImportedModel
    plan: Plan | None
    axis: tuple[int, int] | None
    lengths: tuple[int, ...]
    splits: Splits | None
    held_out: bool
    warnings: tuple[str, ...]
    library: str
    dtype: str
    device: Device

    @property
    def program(self) -> Program:
        return self.model.program

    @property
    def length(self) -> int:
        """Tokens that the plan is made for."""
        return self.lengths[-1]

    @property
    def facts(self) -> dict[str, Any]:
        """What decides quality measurements besides weights, data and code."""
        return {"dtype": self.dtype, "linear_library": self.library, "device": self.device.to_json()}


def prepare(request: OptimizeRequest, model: ImportedModel | None = None) -> Job:
    """Check a request, import its model unless it is given, and read its data.

    Raises:
        UsageError: the request, the model or the data cannot be used.
        EnvironmentFault: the output cannot be written, or a library is missing.
    """
    budget = _budget(request)
    _check_output(request)
    if model is None:
        model = load_model(request.model, dtype=request.dtype, trust=request.trust, factory=request.factory)
    model = fit_to(request.backend, model)
    program = model.program
    metric_of(budget.metric, request.metric).check(Interface.of(program), program.sites)
    axis = length_axis(program)
    lengths = _lengths(request, program, axis)
    data = read_splits(request, model, lengths[-1])
    return Job(
        request=request,
        budget=budget,
        model=model,
        plan=None if request.plan is None else read_plan(request.plan, program),
        axis=axis,
        lengths=lengths,
        splits=data.splits,
        held_out=data.held_out,
        warnings=data.warnings,
        library=faster_library(program),
        dtype=compute_dtype(program),
        device=get_backend(request.backend).device(),
    )


def _budget(request: OptimizeRequest) -> Budget:
    try:
        budget = Budget.parse(request.budget)
    except ValueError as error:
        raise UsageError(str(error)) from error
    metric_of(budget.metric, request.metric)
    return budget


def _check_output(request: OptimizeRequest) -> None:
    target = request.target
    if not request.dry_run:
        check_target(target)
    elif target.is_dir():
        raise UsageError(f"{target}: is a folder; a dry run writes a plan file, name one with -o")
    elif not os.access(target.absolute().parent, os.W_OK):
        raise EnvironmentFault(
            f"{target.absolute().parent}: the output folder is missing or cannot be written"
        )


def _lengths(request: OptimizeRequest, program: Program, axis: tuple[int, int] | None) -> tuple[int, ...]:
    if request.lengths is None or axis is None:
        return default_lengths(program, axis)
    limit = longest(program, axis)
    if limit is not None and max(request.lengths) > limit:
        raise UsageError(f"--lengths {max(request.lengths)}: the model was made for at most {limit} tokens")
    return tuple(sorted(set(request.lengths)))
