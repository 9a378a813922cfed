"""What a run was asked for, on what it ran and when: the facts that its report needs to be read alone."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

from hcompile.pipeline.crossover import ROUNDS
from hcompile.versions import library_versions

if TYPE_CHECKING:
    from hcompile.pipeline.job import Job


def asked(job: Job) -> dict[str, Any]:
    """Return a JSON object.

    `documents` has how many there were by what they were used for ("profile", "repair", "certify", "refit"), None where
    there were none; `rounds` the least and the most calls that a time of the crossover is the median of; `date` is the
    machine's own, ISO 8601.
    """
    request, splits = job.request, job.splits
    uses: tuple[str, ...] = ("profile", "repair") if job.plan is None else ()
    if job.held_out and not request.dry_run:
        uses = (*uses, "certify")
    documents = None if splits is None else {use: len(getattr(splits, use)) for use in uses}
    if documents is not None and splits is not None and request.refit:
        documents["refit"] = len(splits.taught)
    if documents is not None and splits is not None and job.maps:
        documents["learn features"] = len(splits.taught)
    return {
        "model": job.model.source,
        "kind": job.model.kind,
        "budgets": list(request.budgets),
        "metric": request.metric,
        "lengths": list(job.lengths),
        "beyond": list(job.longer),
        "widen": request.widen,
        "granularity": request.granularity,
        "keep_layers": list(request.keep_layers),
        "families": None if request.families is None else list(request.families),
        "cost": request.cost,
        "cost_at": job.cost_length,
        "refit": request.refit,
        "reserve": request.reserve,
        "plan": None if request.plan is None else str(request.plan),
        "calib": request.calib,
        "verify": request.verify,
        "documents": documents,
        "dtype": job.dtype,
        "backend": request.backend,
        "device": job.device.to_json(),
        "versions": library_versions(),
        "seed": request.seed,
        "rounds": [ROUNDS.least, ROUNDS.most],
        "date": date.today().isoformat(),
    }
