"""The quality-budget policy: profile, allocate, repair.

A profile scores every (unit of heads, pattern) around the dense model. Allocation finds the fastest plan by those
scores. Repair measures whole plans, scores again around one that nearly holds, and uses the budget up. The certificate
(`hcompile.policy.certify`) comes later, from the lowered module and from documents that nothing here has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from hcompile.operator import Kernel
from hcompile.patterns import Pattern
from hcompile.plan import Plan
from hcompile.policy.calibration import Splits
from hcompile.policy.documents import data_digest
from hcompile.policy.goal import Goal, scored_by
from hcompile.policy.heads_under import Maps, maps_digest
from hcompile.policy.interface import Interface
from hcompile.policy.log import Trial
from hcompile.policy.measure import Call, Comparison, Remembered
from hcompile.policy.memory import Forgetful, Memory
from hcompile.policy.metrics.score import DocumentScore
from hcompile.policy.profile import Scores, expand
from hcompile.policy.repair import Effort, Repair
from hcompile.policy.statistics import by_origin, independent
from hcompile.policy.surrogate import Direction, Likelihood
from hcompile.policy.text import Encoder
from hcompile.policy.units import Unit, measured, narrowed
from hcompile.policy.writing import Writer
from hcompile.program import Program
from hcompile.progress import Progress, quiet
from hcompile.site import Site
from hcompile.values import sha256_json

Runner = Callable[[Plan, Sequence[torch.Tensor]], Sequence[torch.Tensor]]
"""The program under a plan: flat inputs to flat outputs. `hcompile.pipeline.plan_runner` compiles one."""

_NOT_FASTER = "no local pattern is predicted to be faster at this length"

HeadTime = Callable[[Site, Pattern], float]
"""Predicted time of one query head of a site under a pattern, in microseconds, at the length planned for."""


@dataclass(frozen=True, slots=True)
class Models:
    """What the policy runs.

    Attributes:
        program: the raised program.
        dense: the dense model.
        hybrid: the program under any plan.
        kernel: computes the attention of a site with all heads under one pattern.
        interface: how the program is called.
        encode: how the model reads text, None for one that takes none.
        refit: what `hybrid` runs plans with besides their patterns, in JSON types; None for nothing.
        maps: of linear far fields, by site.
    """

    program: Program
    dense: Call
    hybrid: Runner
    kernel: Kernel
    interface: Interface
    encode: Encoder | None = None
    refit: Any = None
    maps: Maps = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """What came out.

    Attributes:
        plan: the fastest plan that holds every budget; the dense plan when none does.
        why_dense: why it is the dense plan, "" when it is not.
        limits: the largest degradation allowed, by budget.
        latency_us, dense_latency_us: predicted time of all attention of one row under the plan, and dense.
        trials: every plan that was measured, in order.
        data_sha256: of the profile and repair documents.
    """

    plan: Plan
    why_dense: str
    limits: tuple[float, ...]
    latency_us: float
    dense_latency_us: float
    trials: tuple[Trial, ...]
    data_sha256: str

    @property
    def holds(self) -> bool:
        """Whether a plan other than the dense one holds the budgets."""
        return not self.why_dense

    def to_json(self) -> dict[str, Any]:
        return {
            "plan": self.plan.to_json(),
            "why_dense": self.why_dense,
            "limits": list(self.limits),
            "latency_us": self.latency_us,
            "dense_latency_us": self.dense_latency_us,
            "trials": [trial.to_json() for trial in self.trials],
            "data_sha256": self.data_sha256,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> PolicyResult:
        """Raises: ValueError, TypeError or KeyError when `value` is no result."""
        trials = tuple(Trial.from_json(trial) for trial in value["trials"])
        limits = tuple(map(float, value["limits"]))
        return cls(**{**value, "plan": Plan.from_json(value["plan"]), "limits": limits, "trials": trials})


def choose_plan(
    models: Models,
    units: Sequence[Unit],
    splits: Splits,
    goals: Sequence[Goal],
    head_us: HeadTime,
    *,
    effort: Effort | None = None,
    memory: Memory | None = None,
    seed: int = 0,
    progress: Progress = quiet,
) -> PolicyResult:
    """Choose the fastest plan whose degradations stay within the limits of all goals.

    Args:
        units: what may change, see `units_of`.
        goals: at least one.
        memory: where profile and repair measurements are kept and found again.

    Raises:
        UsageError: a metric does not fit the model, or an output is not finite.
    """
    program = models.program
    interface = models.interface
    for goal in goals:
        goal.metric.check(interface, program.sites)
    dense = Plan.dense(program.sites)
    longest = max((interface.length_of(document.tensors) or 0 for document in splits.profile), default=0)
    if longest:
        units = narrowed(units, longest)
    latency_us = _latency_us(units, head_us)
    dense_us = sum(row[0] for row in latency_us)
    # How much a routed head reads, and so its time, only the profile tells.
    known = all(option.measured(0.0) == option for unit in units for option in unit.options)
    limits = tuple(goal.limit for goal in goals)
    result = partial(PolicyResult, limits=limits, dense_latency_us=dense_us, data_sha256=splits.digest)
    unchanged = partial(result, plan=dense, latency_us=dense_us)
    if all(len(unit.options) == 1 for unit in units):
        return unchanged(why_dense=f"documents of {longest} tokens are too short to show a loss", trials=())
    for goal in goals:
        if goal.limit <= 0:
            return unchanged(why_dense=f"{goal.text} allows no degradation at all", trials=())
    if known and all(min(row) >= row[0] for row in latency_us):
        return unchanged(why_dense=_NOT_FASTER, trials=())
    keeper = Keeper(Forgetful() if memory is None else memory, models, units, splits, goals, seed, progress)
    profile = keeper.expand(dense, "profile")
    units = measured(units, profile.kept)
    latency_us = _latency_us(units, head_us)
    if all(min(row) >= row[0] for row in latency_us):
        return unchanged(why_dense=_NOT_FASTER, trials=())
    repair = Repair(
        units,
        latency_us,
        limits,
        statistics=[goal.metric.statistic for goal in goals],
        scored=scored_by(goals),
        measure=keeper.measure,
        certify_documents=independent(splits.certify),
        effort=Effort() if effort is None else effort,
        seed=seed,
    )
    best = repair.run(profile, partial(keeper.expand, stage="refine"))
    trials = tuple(repair.trials)
    if best is None:
        return unchanged(why_dense=_out_of_reach(goals, trials), trials=trials)
    return result(plan=best.plan, why_dense="", latency_us=best.latency_us, trials=trials)


def _latency_us(units: Sequence[Unit], head_us: HeadTime) -> list[list[float]]:
    return [[len(unit.heads) * head_us(unit.site, option) for option in unit.options] for unit in units]


def _out_of_reach(goals: Sequence[Goal], trials: Sequence[Trial]) -> str:
    """Name the budgets that the plan nearest to holding all of them does not hold."""
    nearest = min(trials, key=lambda trial: trial.tightest, default=None)
    if nearest is None:
        return f"no plan is predicted to hold {goals[scored_by(goals)].text}"
    failed = [goal.text for goal, used in zip(goals, nearest.used, strict=True) if used > 1]
    return f"no measured plan is likely to hold {' and '.join(failed)}"


class Keeper:
    """Measures plans on the repair documents and expands around them on the profile's, or recalls what a run found."""

    def __init__(
        self,
        memory: Memory,
        models: Models,
        units: Sequence[Unit],
        splits: Splits,
        goals: Sequence[Goal],
        seed: int,
        progress: Progress,
    ) -> None:
        self._memory = memory
        self._models = models
        self._units = units
        self._splits = splits
        self._metrics = [goal.metric for goal in goals]
        self._seed = seed
        self._progress = progress
        self._interface = models.interface
        scored = self._metrics[scored_by(goals)]
        self._surrogate = Likelihood() if scored.needs_logits else Direction()
        self._maps = maps_digest(models.maps)
        self._dense = Remembered(models.dense)
        # The passes that write are not asked for again: only what was written is kept.
        self._write = Writer(models.dense, models.interface, progress)
        self._options = sha256_json(
            [[unit.site.name, unit.heads, [option.to_json() for option in unit.options]] for unit in units]
        )

    def expand(self, plan: Plan, stage: str) -> Scores:
        key = {
            "plan": plan.digest,
            "options": self._options,
            "surrogate": type(self._surrogate).__name__,
            "data": data_digest(self._splits.profile),
            "maps": self._maps,
            "seed": self._seed,
        }
        known = self._memory.recall("policy.profile", key)
        if known is not None:
            return Scores.from_json(known)
        scores = expand(
            self._models.program,
            plan,
            self._splits.profile,
            self._units,
            interface=self._interface,
            surrogate=self._surrogate,
            dense=self._dense,
            kernel=self._models.kernel,
            maps=self._models.maps,
            seed=self._seed,
            stage=stage,
            progress=self._progress,
        )
        self._memory.keep("policy.profile", key, scores.to_json())
        return scores

    def measure(self, plan: Plan, stage: str = "repair") -> list[list[DocumentScore]]:
        """Return the scores by metric; those that are not known yet come from one pass of both models."""
        documents = self._splits.repair
        keys = [
            {
                "plan": plan.digest,
                "refit": self._models.refit,
                "maps": self._maps,
                "metric": metric.source(),
                "data": data_digest(documents),
                "seed": self._seed,
            }
            for metric in self._metrics
        ]
        scores: list[list[DocumentScore] | None] = []
        for key in keys:
            known = self._memory.recall("policy.repair", key)
            scores.append(None if known is None else [DocumentScore.from_json(score) for score in known])
        wanted = [index for index, known in enumerate(scores) if known is None]
        if wanted:
            comparison = Comparison(
                dense=self._dense,
                hybrid=partial(self._models.hybrid, plan),
                interface=self._interface,
                metrics=[self._metrics[index] for index in wanted],
                encode=self._models.encode,
                seed=self._seed,
                progress=self._progress,
                write=self._write,
            )
            for index, found in zip(wanted, comparison.scores(documents, stage), strict=True):
                self._memory.keep("policy.repair", keys[index], [score.to_json() for score in found])
                scores[index] = found
        return [by_origin(documents, found) for found in scores if found is not None]
