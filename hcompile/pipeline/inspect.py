"""`hcompile inspect`: what attention a model has, or what an artifact holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcompile.artifact.load import check_files, read_manifest, read_stored
from hcompile.artifact.manifest import MANIFEST
from hcompile.left import LeftDense
from hcompile.plan import Plan
from hcompile.site import Site


@dataclass(frozen=True, slots=True)
class InspectReport:
    """A model or an artifact, as far as it can be told without running it.

    Attributes:
        kind: "artifact", or what the model is: "transformers", "archive", "module".
        found: one JSON object for each raised attention (see `hcompile.passes.findings.Finding`); for an artifact its
            sites.
        plan: the artifact's plan; for a model the dense one.
        artifact: what the manifest says, None for a model.
        schedules: JSON form by site, None for a model.
    """

    path: str
    kind: str
    sites: tuple[Site, ...]
    found: tuple[Mapping[str, Any], ...]
    left: tuple[LeftDense, ...]
    plan: Plan
    artifact: Mapping[str, Any] | None = None
    schedules: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "kind": self.kind,
            "sites": [site.to_json() for site in self.sites],
            "found": [dict(finding) for finding in self.found],
            "left": [left.to_json() for left in self.left],
            "plan": self.plan.to_json(),
            "artifact": self.artifact,
            "schedules": self.schedules,
        }


def inspect(
    path: str, *, dtype: str | None = None, trust: bool = False, factory: str | None = None
) -> InspectReport:
    """Inspect an artifact (its JSON only) or a model (which is exported, as `optimize` would).

    Raises:
        UsageError: there is nothing usable at `path`.
    """
    if (Path(path) / MANIFEST).is_file():
        return _inspect_artifact(Path(path))
    from hcompile.frontend.load import load_model
    from hcompile.passes.findings import findings

    model = load_model(path, dtype=dtype, trust=trust, factory=factory)
    program = model.program
    found = tuple(finding.to_json() for finding in findings(program))
    return InspectReport(path, model.kind, program.sites, found, program.left, Plan.dense(program.sites))


def _inspect_artifact(path: Path) -> InspectReport:
    manifest = read_manifest(path)
    check_files(path, manifest)
    stored = read_stored(path)
    return InspectReport(
        path=str(path),
        kind="artifact",
        sites=stored.sites,
        found=tuple(site.to_json() for site in stored.sites),
        left=stored.left,
        plan=stored.plan,
        artifact=manifest.to_json(),
        schedules=stored.schedules,
    )
