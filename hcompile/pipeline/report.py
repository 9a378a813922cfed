"""What an optimization did, measured: frozen, with one JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hcompile.checks import check_object, shown
from hcompile.guard import Guard
from hcompile.left import LeftDense
from hcompile.plan import Plan
from hcompile.site import Site


@dataclass(frozen=True, slots=True)
class NodeTime:
    """One attention node at one length: the time that plans were compared by, and the measured one."""

    site: str
    length: int
    predicted_us: float
    measured_us: float

    def to_json(self) -> dict[str, Any]:
        return {
            "site": self.site,
            "length": self.length,
            "predicted_us": self.predicted_us,
            "measured_us": self.measured_us,
        }

    @classmethod
    def from_json(cls, value: Any) -> NodeTime:
        """Raises: ValueError when `value` is no time of a node."""
        return cls(**check_object("node", value, ("site", "length", "predicted_us", "measured_us")))


@dataclass(frozen=True, slots=True)
class OptimizeReport:
    """See the module's docstring.

    Attributes:
        output: what was written.
        outcome: "hybrid", "dense" (the budget is out of reach, so the model is unchanged) or "plan" (a dry run).
        removed: share of the model's own (query, key) pairs that the plan does not visit, by length.
        certificate: JSON form, None without a measurement.
        nodes: predicted and measured times of the plan's attention nodes.
        crossover: JSON form of the measured crossover, None in a dry run.
        stages: seconds of each stage by name, in order.
        kernels_measured: candidates that were timed in this run; 0 when the database had everything.
        refit: {"start", "projections"}: the sites whose output projection has a second weight for tokens that see more
            than `start` keys; None where none has.
        warnings: one line each.
        run: what was asked, on what and when (`hcompile.pipeline.asked`), None in reports that do not say.
    """

    output: str
    outcome: str
    sites: tuple[Site, ...]
    left: tuple[LeftDense, ...]
    guards: tuple[Guard, ...]
    plan: Plan
    removed: Mapping[int, float]
    certificate: Mapping[str, Any] | None
    policy: Mapping[str, Any] | None
    nodes: tuple[NodeTime, ...]
    crossover: Mapping[str, Any] | None
    linear_library: str
    stages: Mapping[str, float]
    kernels_measured: int
    warnings: tuple[str, ...] = ()
    run: Mapping[str, Any] | None = None
    refit: Mapping[str, Any] | None = None

    @property
    def why_dense(self) -> str:
        """Why the policy chose the dense plan, "" where it did not."""
        return "" if self.policy is None else str(self.policy["why_dense"])

    @property
    def broken(self) -> tuple[str, ...]:
        """Metrics whose certified bound is above their budget."""
        if self.certificate is None:
            return ()
        shorter = self.certificate.get("shorter", ())
        claims = [*self.certificate["claims"], *(claim for step in shorter for claim in step["claims"])]
        return tuple(dict.fromkeys(claim["metric"] for claim in claims if not claim["holds"]))

    def to_json(self) -> dict[str, Any]:
        return {
            "output": self.output,
            "outcome": self.outcome,
            "sites": [site.to_json() for site in self.sites],
            "left": [left.to_json() for left in self.left],
            "guards": [guard.to_json() for guard in self.guards],
            "plan": self.plan.to_json(),
            "removed": {str(length): share for length, share in self.removed.items()},
            "certificate": self.certificate,
            "policy": self.policy,
            "nodes": [node.to_json() for node in self.nodes],
            "crossover": self.crossover,
            "linear_library": self.linear_library,
            "stages": dict(self.stages),
            "kernels_measured": self.kernels_measured,
            "warnings": list(self.warnings),
            "run": self.run,
            "refit": self.refit,
        }

    @classmethod
    def from_json(cls, value: Any) -> OptimizeReport:
        """Read a report; the parts that have a form of their own elsewhere are checked where they are used.

        Raises: ValueError, TypeError or KeyError when `value` is no report.
        """
        if not isinstance(value, dict) or "outcome" not in value:
            raise ValueError(f"report is {shown(value)}, wanted what `hcompile optimize --json` prints")
        plan = Plan.from_json(value["plan"])
        sites = tuple(Site.from_json(site) for site in value["sites"])
        plan.check(sites)
        left = (check_object("left", entry, ("name", "reason")) for entry in value["left"])
        guards = (check_object("guard", entry, ("kind", "input")) for entry in value["guards"])
        found = {
            **value,
            "sites": sites,
            "plan": plan,
            "left": tuple(LeftDense(**entry) for entry in left),
            "guards": tuple(Guard(**entry) for entry in guards),
            "removed": {int(length): float(share) for length, share in value["removed"].items()},
            "nodes": tuple(NodeTime.from_json(node) for node in value["nodes"]),
            "warnings": tuple(map(str, value["warnings"])),
        }
        return cls(**found)
