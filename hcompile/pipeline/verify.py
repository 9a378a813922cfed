"""`hcompile verify`: the certificate of an artifact, measured again on data of the user's choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcompile.artifact.load import open_artifact
from hcompile.checks import shown
from hcompile.errors import UsageError
from hcompile.pipeline.certifying import certify_lowered, text_encoder
from hcompile.pipeline.request import as_budgets
from hcompile.pipeline.tuning import check_lengths
from hcompile.policy.calibration import gather
from hcompile.policy.certificate import LEAST_TO_CERTIFY, Certificate
from hcompile.policy.certify import CONFIDENCE
from hcompile.policy.goal import Goal, goals_of
from hcompile.policy.sources import read_source
from hcompile.progress import Progress, quiet
from hcompile.runtime.inputs import interface_of, limits


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """What to measure.

    Attributes:
        data: a source of documents, as for `--calib`.
        budget: one or several; None for those that the artifact was made with.
        metric: `package.module:function` of the user's.
        length: tokens of a document; None for the longest that the certificate speaks of.
        documents: how many; at least 32.
    """

    artifact: Path
    data: str
    budget: str | Sequence[str] | None = None
    metric: str | None = None
    length: int | None = None
    documents: int = 64
    seed: int = 0


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The certificate measured now, and the one that the artifact carries (None where it carries none)."""

    artifact: str
    measured: Certificate
    carried: Certificate | None

    @property
    def covered(self) -> bool:
        """Whether the artifact's certificate covers documents as long as those that were measured now."""
        carried = self.carried
        return carried is not None and carried.covers_from <= self.measured.longest <= carried.covers

    @property
    def coverage(self) -> str:
        """The same as a sentence, with how far the artifact's certificate goes."""
        if self.carried is None:
            return "the artifact carries no certificate, so it covers no length"
        told = "covered" if self.covered else "not covered"
        return (
            f"documents of {self.measured.longest} tokens are {told} by the artifact's certificate, which "
            f"{self.carried.coverage}"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "artifact": self.artifact,
            "measured": self.measured.to_json(),
            "carried": None if self.carried is None else self.carried.to_json(),
            "covered": self.covered,
        }


def verify(request: VerifyRequest, progress: Progress = quiet) -> VerifyReport:
    """Measure an artifact's quality on `request.data`.

    Raises:
        UsageError: the artifact or the data cannot be used, or nothing says which budgets to hold.
    """
    opened = open_artifact(request.artifact)
    certificate = opened.manifest.certificate
    carried = None if certificate is None else Certificate.from_json(dict(certificate))
    goals = _goals(request, opened.manifest.notes)
    axis = opened.manifest.length_axis
    interface = interface_of(opened.program, axis)
    fixed = interface.fixed_length or interface.positions
    length = (
        fixed or request.length or (carried.longest if carried else None) or limits(opened.program, axis)[1]
    )
    if length is None:
        raise UsageError(f"{request.artifact}: nothing says how long documents should be: pass --length")
    if fixed is None:
        check_lengths("--length", [length], opened.program, axis)
    encode = text_encoder(opened.program, interface, opened.manifest.source)
    if request.documents < LEAST_TO_CERTIFY:
        raise UsageError(f"--documents {request.documents}: a certificate needs at least {LEAST_TO_CERTIFY}")
    count = request.documents
    documents = gather(read_source(request.data), interface, encode, length, count, request.seed)
    if len(documents) < LEAST_TO_CERTIFY:
        raise UsageError(
            f"{request.data} gives {len(documents)} different documents of {length} tokens and {LEAST_TO_CERTIFY} are "
            "needed: add data, or choose a shorter length"
        )
    measured = certify_lowered(
        opened.program,
        opened.lowered,
        interface,
        documents,
        encode=encode,
        goals=goals,
        domain=request.data,
        dtype=opened.manifest.dtype,
        device=opened.device.model,
        confidence=CONFIDENCE,
        seed=request.seed,
        progress=progress,
    )
    return VerifyReport(str(request.artifact), measured, carried)


def _goals(request: VerifyRequest, notes: Mapping[str, Any]) -> tuple[Goal, ...]:
    """Resolve the request's budgets, or those in the artifact's notes ("budget", one text, in the first artifacts)."""
    metric = notes.get("metric")
    if metric is not None and request.metric is None and not request.budget:
        # An artifact must not choose code to run.
        raise UsageError(
            f"{request.artifact}: its budget is of a metric that is no part of hcompile: pass --metric {shown(metric)} "
            "if you trust that code, or another --budget"
        )
    texts = request.budget or notes.get("budgets") or notes.get("budget")
    if not texts:
        raise UsageError(f"{request.artifact} carries no budget: pass --budget METRIC=LIMIT")
    if not isinstance(texts, (str, list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise UsageError(f"{request.artifact}: its budget is {shown(texts)}: pass --budget METRIC=LIMIT")
    return goals_of(as_budgets(texts), request.metric)
