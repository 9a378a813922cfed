"""Plans that leave less and less of a model's (query, key) pairs: allocations, whole heads and layers, and controls.

All plans of one target leave at most that share of the pairs, so that curves can be compared at equal work:

- allocated: little predicted degradation, one pattern for each head, as the policy does it with pairs in time's place.
- ranked: heads, or whole layers, get their narrowest pattern one after the other, the least predicted loss first.
- uniform: one window for all heads.
- interleaved: every n-th layer stays as it is, the others share one window.

The last two look at no score.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from hcompile.patterns import Dense, Local, Pattern
from hcompile.plan import Plan, own_pattern
from hcompile.policy.units import Unit, measured, narrowed, plan_of, units_of
from hcompile.site import Site

Table = Sequence[Sequence[float]]
"""By unit and option."""

_ROUNDING = 0.5
"""Pairs that a target may be passed by: targets are shares of counted pairs, which rounding must not rule out."""


@dataclass(frozen=True, slots=True)
class Removal:
    """One program's plans at one length.

    Attributes:
        heads: a unit for each query head, sites in execution order.
        layers: a unit for each site, in the same order.
        length: tokens of a row.
    """

    heads: tuple[Unit, ...]
    layers: tuple[Unit, ...]
    length: int

    def __post_init__(self) -> None:
        covered = {(unit.site, head) for unit in self.heads for head in unit.heads}
        whole = {(unit.site, head) for unit in self.layers for head in unit.heads}
        if covered != whole or len(covered) != sum(len(unit.heads) for unit in self.heads) or not covered:
            raise ValueError("removal: heads and layers must be units of the same heads")

    @classmethod
    def of(cls, sites: Sequence[Site], length: int, chosen: Collection[str] | None = None) -> Removal:
        """Return the plans of a program's sites.

        Args:
            chosen: families of patterns, None for all.

        Raises:
            UsageError: no head can see less at this length.
        """
        heads, layers = (
            narrowed(units_of(sites, length, granularity=granularity, chosen=chosen), length)
            for granularity in ("head", "layer")
        )
        return cls(heads, layers, length)

    def measured(self, kept: Table) -> Removal:
        """Return the same with what options were seen to read, by unit of `heads` and then of `layers`."""
        cut = len(self.heads)
        return replace(self, heads=measured(self.heads, kept[:cut]), layers=measured(self.layers, kept[cut:]))

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(unit.site for unit in self.layers)

    @property
    def families(self) -> tuple[str, ...]:
        """The families of patterns that heads can get, in the order of the menus."""
        return tuple(dict.fromkeys(option.family for unit in self.heads for option in unit.options[1:]))

    def dense_pairs(self) -> int:
        """Return the pairs that the model itself visits in one row."""
        return Plan.dense(self.sites).visited_pairs(self.sites, self.length)

    def share(self, plan: Plan) -> float:
        """Return the share of the model's own pairs that a plan leaves."""
        return plan.visited_pairs(self.sites, self.length) / self.dense_pairs()

    def pairs(self, site: Site, pattern: Pattern) -> int:
        """Return the pairs of one head of a site."""
        return pattern.visited_pairs(self.length, self.length, causal=site.causal)

    def narrowest(self, unit: Unit, family: str) -> int:
        """Return the index of the unit's option of a family with the fewest pairs, 0 where it has none."""
        mine = [index for index, option in enumerate(unit.options) if index and family in (option.family, "")]
        return min(mine, key=lambda index: self.pairs(unit.site, unit.options[index]), default=0)

    def targets(self, points: int) -> tuple[float, ...]:
        """Return falling shares of the pairs, equal factors apart, down to the least that any plan leaves."""
        choice = [self.narrowest(unit, "") for unit in self.heads]
        least = self.share(plan_of(self.heads, choice))
        return (*(least ** (step / points) for step in range(1, points)), least)

    def allocated(self, cost: Table, target: float, family: str = "") -> Plan | None:
        """Return the plan of the least cost, None where no plan leaves so little.

        Args:
            cost: by unit of `heads` and option.
            family: of the patterns to choose from, "" for all.
        """
        allowed = [
            [index for index, option in enumerate(unit.options) if not index or family in (option.family, "")]
            for unit in self.heads
        ]
        costs = [[row[index] for index in mine] for row, mine in zip(cost, allowed, strict=True)]
        pairs = [
            [float(len(unit.heads) * self.pairs(unit.site, unit.options[index])) for index in mine]
            for unit, mine in zip(self.heads, allowed, strict=True)
        ]
        choice = descend(pairs, costs, target * self.dense_pairs() + _ROUNDING)
        if choice is None:
            return None
        return plan_of(self.heads, [mine[index] for mine, index in zip(allowed, choice, strict=True)])

    def ranked(self, units: Sequence[Unit], cost: Table, target: float, family: str) -> Plan | None:
        """Return the plan with the fewest units narrowed, None where all of them leave too much.

        Args:
            units: `heads` or `layers`.
            cost: by unit and option.
        """
        narrow = [self.narrowest(unit, family) for unit in units]
        order = sorted(range(len(units)), key=lambda index: cost[index][narrow[index]])
        choice = [0] * len(units)
        for index in order:
            if self._fits(plan := plan_of(units, choice), target):
                return plan
            choice[index] = narrow[index]
        return self._if_fitting(plan_of(units, choice), target)

    def uniform(self, target: float, family: str) -> Plan | None:
        """Return the plan of the widest pattern of a family for all heads, None where each leaves too much."""
        return self._widest(lambda site: False, target, family)

    def interleaved(self, target: float, family: str) -> Plan | None:
        """Return the plan with the most layers left as they are, and the widest pattern for the others.

        Where every n-th layer stays, these are the layers n - 1, 2 n - 1, ... None where no n >= 2 leaves so little.
        """
        for period in range(2, len(self.layers) + 1):
            kept = {unit.site.name for unit in self.layers[period - 1 :: period]}
            plan = self._widest(lambda site, kept=kept: site.name in kept, target, family)  # type: ignore[misc]
            if plan is not None:
                return plan
        return None

    def _widest(self, stays: Callable[[Site], bool], target: float, family: str) -> Plan | None:
        """Return the plan of one pattern for all sites that do not stay, the one that leaves the most within target."""
        candidates = self._candidates(family)
        low, high = 0, len(candidates)  # candidates rise in pairs: those before `low` fit
        while low < high:
            middle = (low + high) // 2
            if self._fits(self._one(candidates[middle], stays), target):
                low = middle + 1
            else:
                high = middle
        return self._one(candidates[low - 1], stays) if low else None

    def _candidates(self, family: str) -> Sequence[Pattern]:
        """Return patterns of a family by rising pairs: every window of at least the menu's narrowest, or the menu."""
        options: dict[Pattern, int] = {}
        for unit in self.layers:
            for option in unit.options[1:]:
                if option.family == family:
                    options[option] = max(options.get(option, 0), self.pairs(unit.site, option))
        menu = sorted(options, key=lambda option: options[option])
        least = next(iter(menu), None)
        if isinstance(least, Local):
            return [replace(least, window=window) for window in range(least.window, self.length + 1)]
        return menu

    def _one(self, pattern: Pattern, stays: Callable[[Site], bool]) -> Plan:
        return Plan.of(
            {
                site.name: [own_pattern(site) if stays(site) else self._within(site, pattern)] * site.q_heads
                for site in self.sites
            }
        )

    def _within(self, site: Site, pattern: Pattern) -> Pattern:
        """Return the pattern as a site can have it: a sliding window is narrowed, never widened, and gets no sinks."""
        own = own_pattern(site)
        if isinstance(pattern, Local) and isinstance(own, Local):
            pattern = Local(min(pattern.window, own.window), 0)
        elif not isinstance(own, Dense) and pattern not in self._options(site):
            return own
        return own if self.pairs(site, pattern) >= self.pairs(site, own) else pattern

    def _options(self, site: Site) -> Iterable[Pattern]:
        return next(unit.options for unit in self.layers if unit.site == site)

    def _fits(self, plan: Plan, target: float) -> bool:
        return plan.visited_pairs(self.sites, self.length) <= target * self.dense_pairs() + _ROUNDING

    def _if_fitting(self, plan: Plan, target: float) -> Plan | None:
        return plan if self._fits(plan, target) else None


def descend(pairs: Table, cost: Table, most: float) -> list[int] | None:
    """Return the index of each unit's option: little cost within `most` pairs, None where no choice has so few.

    Units go down the convex hull of their (pairs, cost), the step of the least cost for its pairs first: the optimum of
    the relaxed problem but for the last step. The last step may go too far, so each unit then takes its cheapest option
    that still fits. `allocate` bounds the cost and is exact; turned round, costs that span six orders of magnitude are
    its objective, for which its solver's absolute tolerances are no match.
    """
    choice = [0] * len(pairs)
    steps: list[tuple[float, int, int, int]] = []
    for unit, (its_pairs, its_cost) in enumerate(zip(pairs, cost, strict=True)):
        at = 0
        while fewer := [index for index, count in enumerate(its_pairs) if count < its_pairs[at]]:
            rates = {
                index: (its_cost[index] - its_cost[at]) / (its_pairs[at] - its_pairs[index])
                for index in fewer
            }
            at = min(fewer, key=lambda index: (rates[index], its_pairs[index]))
            steps.append((rates[at], unit, len(steps), at))
    left = sum(row[0] for row in pairs)
    for _, unit, _, option in sorted(steps):
        if left <= most:
            break
        left += pairs[unit][option] - pairs[unit][choice[unit]]
        choice[unit] = option
    if left > most:
        return None
    for unit in sorted(range(len(pairs)), key=lambda unit: -cost[unit][choice[unit]]):
        room = most - left + pairs[unit][choice[unit]]
        fitting = [index for index, count in enumerate(pairs[unit]) if count <= room]
        best = min(fitting, key=lambda index: (cost[unit][index], pairs[unit][index]))
        left += pairs[unit][best] - pairs[unit][choice[unit]]
        choice[unit] = best
    return choice
