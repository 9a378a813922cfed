"""Windows that widen with the length, so that one plan serves a range of lengths.

A plan is chosen for the longest length. Its windows are then made to widen up to what they are there (a span of
alpha + beta N keys, as in MoA, arXiv:2406.14909). How much of a window follows the length is chosen for each unit of
heads: the fewest pairs at the shorter lengths whose predicted loss there, by scores around the plan itself, is within a
part of what the plan leaves of the budget. Whole plans are measured at each shorter length, and the first that holds
everywhere is taken. So short calls read less, and calls longer than any that were measured find wider windows than the
plan had: whether that suffices there, `--beyond` measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any, Protocol

from hcompile.patterns import Dense, Pattern
from hcompile.plan import Plan, own_pattern
from hcompile.policy.allocate import allocate
from hcompile.policy.goal import Goal, scored_by
from hcompile.policy.metrics.score import DocumentScore
from hcompile.policy.profile import Scores
from hcompile.policy.repair import CROWDING, used_of
from hcompile.policy.units import Unit, plan_of

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of a window beyond its least, that may follow the length."""
PARTS = (1.0, 0.5, 0.25, 0.1)
"""Of what the plan leaves of the budget at a length, that proposals may lose by prediction; the first that holds is
taken."""
_LEAST_LEFT = 1e-3
"""Share of the limit that is left at least, so that what loses nothing may be chosen."""


class AtShorter(Protocol):
    """Scores and measures plans on documents of one of the shorter lengths."""

    def expand(self, plan: Plan, units: Sequence[Unit]) -> Scores: ...

    def measure(self, plan: Plan) -> list[list[DocumentScore]]: ...


@dataclass(frozen=True, slots=True)
class Tried:
    """A plan as it was measured at one of the shorter lengths.

    Attributes:
        part: of what the rigid plan leaves of the budget, see `PARTS`; 0 for that plan itself.
        measured, likely_bound, used: by budget, as in `policy.log.Trial`.
    """

    part: float
    length: int
    measured: tuple[float, ...]
    likely_bound: tuple[float, ...]
    used: tuple[float, ...]

    @property
    def accepted(self) -> bool:
        """Whether every budget is likely to hold at this length, with the reserve left."""
        return max(self.used) <= 1

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "accepted": self.accepted}


@dataclass(frozen=True, slots=True)
class Widener:
    """How a plan's windows are made to widen.

    Attributes:
        units: which heads share a pattern, with any options.
        length: that the plan was chosen for.
        shorter: by length.
        reserve: the share of each limit that is left alone.
        certify_documents: how many the certificate will be measured on.
    """

    units: Sequence[Unit]
    length: int
    shorter: Mapping[int, AtShorter]
    goals: Sequence[Goal]
    reserve: float
    certify_documents: int
    seed: int

    def widen(self, plan: Plan) -> tuple[Plan, tuple[Tried, ...]]:
        """Return the plan with windows that widen as much as the budgets allow, and what was measured.

        It is returned as it is where it does not hold at a shorter length itself, and where no proposal does.
        """
        tried = [self._try(plan, length, 0.0) for length in sorted(self.shorter, reverse=True)]
        if not all(each.accepted for each in tried):
            return plan, tuple(tried)
        units = [
            replace(unit, options=(own_pattern(unit.site), *self._slopes(plan, unit))) for unit in self.units
        ]
        costs = self._costs(plan, units, tried)
        pairs = [self._pairs(unit) for unit in units]
        for part in PARTS:
            choice = allocate(pairs, costs, part)
            candidate = plan if choice is None else plan_of(units, [1 + option for option in choice])
            if candidate == plan:
                break
            for length in sorted(self.shorter, reverse=True):
                tried.append(self._try(candidate, length, part))
                if not tried[-1].accepted:
                    break
            else:
                return candidate, tuple(tried)
        return plan, tuple(tried)

    def _slopes(self, plan: Plan, unit: Unit) -> list[Pattern]:
        """Return what a unit's window may become: the same at the plan's length, with more and more of it following."""
        pattern = plan[unit.site.name][unit.heads[0]]
        if unit.site.window is not None:
            return [pattern]
        return list(dict.fromkeys(pattern.widened(self.length, share) for share in SHARES))

    def _costs(self, plan: Plan, units: Sequence[Unit], rigid: Sequence[Tried]) -> list[list[float]]:
        """Return the predicted loss of each slope as a part of what the rigid plan leaves, at the length where it is
        the largest part."""
        found = [[-inf] * (len(unit.options) - 1) for unit in units]
        for tried in rigid:
            there = [_at(unit, tried.length) for unit in units]
            scores = self.shorter[tried.length].expand(plan, there)
            left = self._left(scores, tried)
            for unit, known, slope, curvature, row in zip(
                units, there, scores.slope, scores.curvature, found, strict=True
            ):
                losses = [first + CROWDING * second for first, second in zip(slope, curvature, strict=True)]
                # The plan's own window comes first. It loses nothing, and by scores hardly anything.
                places = [known.options.index(option.at(tried.length)) for option in unit.options[1:]]
                for option, place in enumerate(places):
                    row[option] = max(row[option], (losses[place] - losses[places[0]]) / left)
        return found

    def _left(self, scores: Scores, tried: Tried) -> float:
        """Return by how much what is scored may rise until the tightest budget, rising with it, is used up."""
        limit = self.goals[scored_by(self.goals)].limit * (1 - self.reserve)
        used = max(tried.used)
        left = limit if used <= 0 or scores.base <= 0 else scores.base * (1 - used) / used
        return max(left, _LEAST_LEFT * limit)

    def _pairs(self, unit: Unit) -> list[float]:
        """Return the share of the dense pairs that each slope visits, added up over the shorter lengths."""
        causal = unit.site.causal
        return [
            len(unit.heads)
            * sum(
                option.visited_pairs(length, length, causal=causal)
                / Dense().visited_pairs(length, length, causal=causal)
                for length in self.shorter
            )
            for option in unit.options[1:]
        ]

    def _try(self, plan: Plan, length: int, part: float) -> Tried:
        found = used_of(
            self.shorter[length].measure(plan),
            [goal.metric.statistic for goal in self.goals],
            [goal.limit * (1 - self.reserve) for goal in self.goals],
            self.certify_documents,
            self.seed,
        )
        return Tried(part, length, *found)


def why_rigid(tried: Sequence[Tried]) -> str:
    """Return why the windows of a plan stay as they are, given what was measured."""
    failed = next((each for each in tried if not each.accepted), None)
    if failed is None:
        return "no window is wide enough to be narrower at a shorter length, or none reads less there"
    if failed.part == 0:
        return (
            f"the plan itself is not likely to hold at {failed.length} tokens ({max(failed.used):.0%} of a budget less "
            "its reserve, from the repair documents): more of them, with --documents, may say otherwise"
        )
    return f"narrower ones are not likely to hold at {failed.length} tokens"


def _at(unit: Unit, length: int) -> Unit:
    """Return a unit with each of its options once, as it is at a length: scores are found by option."""
    return replace(unit, options=tuple(dict.fromkeys(option.at(length) for option in unit.options)))
