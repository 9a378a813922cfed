"""The curves of one length: which plans are measured, in which order, and where a curve ends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial

from hcompile.passes.far_field import insert_far_field
from hcompile.pipeline.ablation import CURVES, MAIN, Point, Sensitivity
from hcompile.pipeline.certifying import text_encoder
from hcompile.pipeline.choosing import any_kernel
from hcompile.pipeline.job import Job
from hcompile.pipeline.plan_runner import PlanRunner
from hcompile.plan import Plan
from hcompile.policy.calibration import Splits
from hcompile.policy.documents import Document
from hcompile.policy.goal import Goal
from hcompile.policy.memory import Memory
from hcompile.policy.policy import Keeper, Models
from hcompile.policy.profile import Scores
from hcompile.policy.removal import Removal, Table
from hcompile.policy.repair import CROWDING
from hcompile.policy.statistics import interval
from hcompile.progress import Progress
from hcompile.runtime.dispatch import safe_tables

CONFIDENCE = 0.95
"""Of the two-sided intervals."""

_HALVINGS = 3
"""Plans measured between the last one within a budget and the first one past it, each in the middle of what is left.
Of several limits each gets one."""

_APART = 0.01
"""Targets nearer to each other than this share are one."""


class Ruler:
    """What measures plans of one program, at any length."""

    def __init__(
        self,
        job: Job,
        goal: Goal,
        limits: Sequence[float],
        collapse: float,
        memory: Memory,
        time_limit_s: float | None,
        progress: Progress,
    ) -> None:
        """Compile the program; the time limit runs from here.

        Args:
            limits: that verdicts are given for, rising.
            collapse: the degradation that ends a curve once its interval is past it.
        """
        self.job, self.goal, self.limits, self.memory, self.progress = job, goal, limits, memory, progress
        self._collapse = collapse
        self._deadline = math.inf if time_limit_s is None else time.monotonic() + time_limit_s
        program = job.program
        # Quality needs any right kernel, so none is tuned.
        tables = safe_tables(program, job.request.backend)
        runner = PlanRunner(insert_far_field(program, job.maps), tables, job.request.backend, job.library)
        self.models = Models(
            program,
            partial(runner, Plan.dense(program.sites)),
            runner,
            any_kernel(job, tables),
            job.interface,
            text_encoder(program, job.interface, job.model.source),
            maps=job.maps,
        )

    def late(self) -> bool:
        return time.monotonic() >= self._deadline

    def collapsed(self, point: Point) -> bool:
        """Whether a curve ends with this point."""
        return point.low > self._collapse


class LengthCurves:
    """Measures the curves of one length; `points`, `sensitivities` and `warnings` are what came out."""

    def __init__(self, ruler: Ruler, removal: Removal, splits: Splits, points: int) -> None:
        """Prepare the curves.

        Args:
            splits: profile documents, and in the place of repair's those to measure on, of the removal's length.
            points: targets from the model itself down to the least that any plan leaves.
        """
        self.documents: tuple[Document, ...] = splits.repair
        self.removal = removal
        self.points: list[Point] = []
        self.sensitivities: list[Sensitivity] = []
        self.warnings: list[str] = []
        self._ruler = ruler
        self._length = removal.length
        self._targets = self.removal.targets(points)
        # One profile scores heads and layers.
        self._keeper = Keeper(
            ruler.memory,
            ruler.models,
            (*removal.heads, *removal.layers),
            splits,
            [ruler.goal],
            ruler.job.request.seed,
            self._told,
        )
        self._found: dict[Plan, tuple[float, float, float]] = {}
        self._scores: dict[Plan, Scores] = {}
        self._cut_short = False

    def measure(self) -> None:
        """Measure everything; what the time limit leaves out is named in `warnings`."""
        if not self._late():
            self._measure_all()
        if self._cut_short:
            self.warnings.append(
                f"the time limit ended the measurements at {self._length} tokens after {len(self._found)} plans"
            )
        del self._keeper  # and with it the dense outputs that it remembers

    def _measure_all(self) -> None:
        dense = Plan.dense(self.removal.sites)
        profile = self._expand(dense)
        self.removal = removal = self.removal.measured(profile.kept)
        cut = len(removal.heads)
        heads, layers = profile.curvature[:cut], profile.curvature[cut:]
        self.sensitivities = [self._sensitivity(heads, layers, family) for family in removal.families]
        targets = self._main(dense)
        ways = {
            "heads": lambda target, family: removal.ranked(removal.heads, heads, target, family),
            "layers": lambda target, family: removal.ranked(removal.layers, layers, target, family),
            "uniform": removal.uniform,
            "interleaved": removal.interleaved,
        }
        for family in removal.families:
            if len(removal.families) > 1:
                self._walk(MAIN, family, targets, partial(removal.allocated, heads))
            for name, way in ways.items():
                self._walk(name, family, targets, way)

    def _main(self, dense: Plan) -> list[float]:
        """Measure the policy's allocation, and return the targets to compare it at, falling.

        Scores are taken again around each plan before the next one, which has less left, is allocated.
        """
        around, last = dense, 1.0
        for target in self._targets:
            plan = self._allocated(around, target)
            point = None if plan is None else self._measure(MAIN, "", target, plan)
            if point is None:
                break
            around, last = point.plan, target
            if self._ruler.collapsed(point):
                break
        for limit in self._ruler.limits:
            for _ in range(_HALVINGS if len(self._ruler.limits) == 1 else 1):
                self._halve(dense, limit)
        between = {point.target for point in self.points} | {t for t in self._targets if t >= last}
        return sorted(between, reverse=True)

    def _halve(self, dense: Plan, limit: float) -> None:
        """Measure a plan between the last one within a limit and the first one past it, the same factor from both."""
        falling = sorted(self.points, key=lambda point: -point.left)
        passed = next((place for place, point in enumerate(falling) if point.high > limit), None)
        if passed is None:
            return
        held = falling[passed - 1] if passed else None
        target = math.sqrt((held.target if held else 1.0) * falling[passed].target)
        if all(abs(target / point.target - 1) > _APART for point in falling):
            plan = self._allocated(held.plan if held else dense, target)
            if plan is not None and all(plan != point.plan for point in falling):
                self._measure(MAIN, "", target, plan)

    def _allocated(self, around: Plan, target: float) -> Plan | None:
        """Return a plan by the scores around another one, None where it is too late for it."""
        if self._late():
            return None
        scores = self._expand(around)
        cost: Table = scores.curvature
        if any(map(any, scores.slope)):
            cost = [
                [first + CROWDING * second for first, second in zip(*rows, strict=True)]
                for rows in zip(scores.slope, scores.curvature, strict=True)
            ]
        return self.removal.allocated(cost[: len(self.removal.heads)], target)

    def _walk(
        self, curve: str, family: str, targets: Sequence[float], way: Callable[[float, str], Plan | None]
    ) -> None:
        """Measure a curve's plan for each target, falling, until it has collapsed."""
        for target in targets:
            plan = way(target, family)
            if plan is None:
                continue
            point = self._measure(curve, family, target, plan)
            if point is None or self._ruler.collapsed(point):
                return

    def _measure(self, curve: str, family: str, target: float, plan: Plan) -> Point | None:
        """Add the point of a plan, None where it is too late to measure it."""
        goal, seed = self._ruler.goal, self._ruler.job.request.seed
        if plan not in self._found:
            if self._late():
                return None
            (scores,) = self._keeper.measure(plan)
            statistic = goal.metric.statistic
            low, high = interval(scores, CONFIDENCE, seed, statistic)
            self._found[plan] = (low, statistic.estimate(scores), high)
            self._tell()
        low, estimate, high = self._found[plan]
        point = Point(
            curve=curve,
            family=family,
            length=self._length,
            target=target,
            left=self.removal.share(plan),
            estimate=estimate,
            low=low,
            high=high,
            documents=len(self.documents),
            plan=plan,
        )
        self.points.append(point)
        return point

    def _late(self) -> bool:
        """Whether the time limit keeps the next plan from being measured."""
        self._cut_short = self._cut_short or self._ruler.late()
        return self._cut_short

    def _expand(self, plan: Plan) -> Scores:
        if plan not in self._scores:
            self._scores[plan] = self._keeper.expand(plan, "profile")
        return self._scores[plan]

    def _sensitivity(self, heads: Table, layers: Table, family: str) -> Sensitivity:
        removal = self.removal
        narrow = [removal.narrowest(unit, family) for unit in removal.layers]
        by_site: dict[str, list[float]] = {}
        for unit, losses in zip(removal.heads, heads, strict=True):
            by_site.setdefault(unit.site.name, []).append(losses[removal.narrowest(unit, family)])
        return Sensitivity(
            length=self._length,
            family=family,
            patterns=tuple(
                unit.options[index].label() if index else ""
                for unit, index in zip(removal.layers, narrow, strict=True)
            ),
            heads=tuple(map(tuple, by_site.values())),
            layers=tuple(losses[index] for losses, index in zip(layers, narrow, strict=True)),
        )

    def _told(self, stage: str, done: int, total: int | None) -> None:
        self._tell(done / total if stage == "repair" and total else 0.0)

    def _tell(self, part: float = 0.0) -> None:
        """Tell the progress in documents; how many plans there will be is known roughly."""
        families = len(self.removal.families)
        curves = 1 + len(CURVES[1:]) * families + (families if families > 1 else 0)
        plans = curves * len(self._targets)
        count = len(self.documents)
        done = int((len(self._found) + part) * count)
        self._ruler.progress(f"{self._length} tokens", min(done, plans * count), plans * count)
