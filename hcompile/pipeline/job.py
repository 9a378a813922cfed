"""A job: the imported model and everything about a run that is known before work begins."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from hcompile.artifact.write import check_target
from hcompile.codegen import get_backend
from hcompile.errors import EnvironmentFault, UsageError
from hcompile.frontend.load import ImportedModel, load_model
from hcompile.passes.place import place_both
from hcompile.pipeline.beyond import Longer, check_beyond, read_longer
from hcompile.pipeline.certifying import text_encoder
from hcompile.pipeline.choosing import candidates, check_refit, read_plan, read_splits, wants_maps
from hcompile.pipeline.importing import fit_to
from hcompile.pipeline.request import OptimizeRequest
from hcompile.pipeline.shorter import Shorter, check_widen, shortened
from hcompile.pipeline.tuning import check_lengths, chosen_lengths
from hcompile.plan import Plan
from hcompile.policy.calibration import Splits
from hcompile.policy.goal import Goal, goals_of
from hcompile.policy.heads_under import Maps
from hcompile.policy.interface import Interface
from hcompile.program import Program
from hcompile.program_json import program_to_json
from hcompile.runtime.dispatch import compute_dtype
from hcompile.runtime.inputs import interface_of, length_axis
from hcompile.tuning_db.key import Device
from hcompile.values import sha256_json
from hcompile.versions import library_versions


@dataclass(frozen=True, slots=True)
class Job:
    """See the module's docstring.

    Attributes:
        plan: the user's, None where the policy chooses one.
        goals: what the budgets ask for.
        interface: how the model is called.
        graphs_sha256: of the program's graph and of the original one's.
        lengths: rising; plans are made for the last one, and schedules for all.
        splits: documents, None where nothing is to be measured.
        held_out: the documents are fit for a certificate.
        longer: documents of lengths beyond the planned ones.
        shorter: the beginnings of those that certify, where windows may widen with the length.
        wants_maps: the plan has linear far fields, or may get some.
        maps: their features by site; learnt when the database is open.
        library: what multiplies weight matrices (`hcompile.pipeline.linear_library`); set when the database is open.
    """

    request: OptimizeRequest
    model: ImportedModel
    plan: Plan | None
    goals: tuple[Goal, ...]
    interface: Interface
    graphs_sha256: str
    lengths: tuple[int, ...]
    splits: Splits | None
    held_out: bool
    longer: Longer
    warnings: tuple[str, ...]
    dtype: str
    device: Device
    library: str = "default"
    wants_maps: bool = False
    maps: Maps = field(default_factory=dict)
    shorter: Shorter = field(default_factory=dict)

    @property
    def program(self) -> Program:
        return self.model.program

    @property
    def axis(self) -> tuple[int, int] | None:
        """See `hcompile.runtime.inputs.length_axis`."""
        return self.interface.axis

    @property
    def length(self) -> int:
        """Tokens that the plan is made for."""
        return self.lengths[-1]

    @property
    def cost_length(self) -> int:
        """Tokens at which the plan is to cost little."""
        return self.length if self.request.cost_at is None else self.request.cost_at

    @property
    def facts(self) -> dict[str, Any]:
        """What decides quality measurements besides weights, data and code."""
        return {
            "graphs": self.graphs_sha256,
            "dtype": self.dtype,
            "linear_library": self.library,
            "device": self.device.to_json(),
            "versions": library_versions(),
        }


def prepare(
    request: OptimizeRequest, model: ImportedModel | None = None, goals: Sequence[Goal] | None = None
) -> Job:
    """Check a request, import its model unless it is given, and read its data.

    Args:
        goals: what takes the place of the request's budgets.

    Raises:
        UsageError: the request, the model or the data cannot be used.
        EnvironmentFault: the output cannot be written, or a library is missing.
    """
    goals = goals_of(request.budgets, request.metric) if goals is None else tuple(goals)
    check_output(request)
    backend = get_backend(request.backend)
    device = backend.torch_device()
    if model is None:
        model = load_model(request.model, dtype=request.dtype, trust=request.trust, factory=request.factory)
    model = fit_to(request.backend, model)
    program = model.program
    # What no artifact can hold is refused before the work, not after it.
    graphs = [None if graph is None else program_to_json(graph) for graph in (program, model.original)]
    axis = length_axis(program)
    interface = interface_of(program, axis)
    for goal in goals:
        goal.metric.check(interface, program.sites)
    lengths = chosen_lengths(request.lengths, program, axis)
    beyond = check_beyond(request.beyond, lengths[-1], program, axis)
    if request.cost_at is not None:
        check_lengths("--cost-at", (request.cost_at,), program, axis)
    if request.plan is None:
        # What can see no less at all is refused before the work.
        candidates(request, program, lengths[-1], compute_dtype(program))
    data = read_splits(request, model, interface, interface.fixed_length or lengths[-1])
    untouched = check_refit(request, program, data)
    plan = None if request.plan is None else read_plan(request.plan, program)
    encode = text_encoder(program, interface, model.source)
    if request.widen:
        check_widen(data.splits if data.held_out else None, interface, lengths)
    widens = request.widen or (plan is not None and plan.widens)
    certified = data.splits.certify if data.splits is not None and data.held_out and widens else ()
    shorter = shortened(certified, interface, lengths) if certified else {}
    if certified and not shorter:
        untouched += (
            f"the plan's windows widen, and nothing shorter than {lengths[-1]} tokens is measured: name more "
            "--lengths, and data that is text",
        )
    longer, warnings = read_longer(
        beyond,
        data.splits if data.held_out else None,
        interface,
        encode,
        planned=lengths[-1],
        seed=request.seed,
    )
    if data.splits is not None:
        # A metric that can make no documents of its own says so before the work.
        measured_on = [data.splits.repair, *shorter.values()]
        if widens:
            measured_on += shortened(data.splits.repair, interface, lengths).values()
        for goal in goals:
            for documents in measured_on:
                goal.metric.documents(documents, interface, encode, request.seed)
    return Job(
        request=request,
        model=_on_device(model, device),
        plan=plan,
        wants_maps=wants_maps(request, plan, program, data),
        goals=goals,
        interface=interface,
        graphs_sha256=sha256_json(graphs),
        lengths=lengths,
        splits=data.splits,
        held_out=data.held_out,
        longer=longer,
        warnings=(*data.warnings, *untouched, *warnings),
        dtype=compute_dtype(program),
        device=backend.device(),
        shorter=shorter,
    )


def _on_device(model: ImportedModel, device: torch.device) -> ImportedModel:
    program, original = place_both(model.program, model.original, device)
    return replace(model, program=program, original=original)


def check_output(request: OptimizeRequest) -> None:
    """Raise UsageError or EnvironmentFault before the work if a request's output cannot be written."""
    target = request.target
    if not request.dry_run:
        check_target(target)
    elif target.is_dir():
        raise UsageError(f"{target}: is a folder; a dry run writes a plan file, name one with -o")
    elif not os.access(target.absolute().parent, os.W_OK):
        raise EnvironmentFault(
            f"{target.absolute().parent}: the output folder is missing or cannot be written"
        )
