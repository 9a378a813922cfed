"""A plan: the pattern of every query head of every site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hcompile.checks import check_object, check_text, shown
from hcompile.patterns import Dense, Local, Pattern, parse_pattern
from hcompile.site import Site
from hcompile.values import sha256_json

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """Patterns by site, in execution order: `choices` pairs a site's name with one pattern per query head."""

    choices: tuple[tuple[str, tuple[Pattern, ...]], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.choices]
        if len(set(names)) != len(names):
            raise ValueError("a plan names a site twice")
        for name, heads in self.choices:
            if not heads or not all(isinstance(pattern, Pattern) for pattern in heads):
                raise ValueError(f"plan: site {name} wants one pattern per query head, got {shown(heads)}")

    @classmethod
    def dense(cls, sites: Iterable[Site]) -> Plan:
        """Return the plan that leaves every head as the model has it (dense, or its own sliding window)."""
        return cls(tuple((site.name, (own_pattern(site),) * site.q_heads) for site in sites))

    @classmethod
    def of(cls, choices: Mapping[str, Iterable[Pattern]]) -> Plan:
        return cls(tuple((name, tuple(heads)) for name, heads in choices.items()))

    def __getitem__(self, site: str) -> tuple[Pattern, ...]:
        for name, heads in self.choices:
            if name == site:
                return heads
        raise KeyError(site)

    def check(self, sites: Iterable[Site]) -> None:
        """Raise ValueError unless the plan names exactly these sites, with their head counts and windows."""
        known = {site.name: site for site in sites}
        named = {name for name, _ in self.choices}
        if named != set(known):
            missing, extra = sorted(set(known) - named), sorted(named - set(known))
            raise ValueError(
                f"the plan does not fit the model: missing sites {missing}, unknown sites {extra}"
            )
        for name, heads in self.choices:
            site = known[name]
            if len(heads) != site.q_heads:
                raise ValueError(
                    f"plan: site {name} has {len(heads)} patterns for {site.q_heads} query heads"
                )
            if not all(pattern.serves(causal=site.causal) for pattern in heads):
                raise ValueError(
                    f"plan: site {name} sees both ways, for which a pattern of its heads has no kernel"
                )
            own = own_pattern(site).params()
            for head, pattern in enumerate(heads):
                window, sinks = pattern.params()
                further = pattern.reads_lists or pattern.has_far_field or pattern.widening > 0
                if site.window is not None and (window > own[0] or sinks > own[1] or further):
                    raise ValueError(
                        f"plan: head {head} of {name} sees more than the model's own window {site.window}"
                    )

    def at(self, length: int) -> Plan:
        """Return the plan that this one is in a call of `length` keys: no window of it widens."""
        return Plan(
            tuple((name, tuple(pattern.at(length) for pattern in heads)) for name, heads in self.choices)
        )

    @property
    def widens(self) -> bool:
        """Whether some window widens with the length of a call."""
        return any(pattern.widening for _, heads in self.choices for pattern in heads)

    def visited_pairs(self, sites: Iterable[Site], length: int) -> int:
        """Count the (query, key) pairs of all heads in one row of `length` tokens."""
        total = 0
        for site in sites:
            counts: dict[Pattern, int] = {}
            for pattern in self[site.name]:
                if pattern not in counts:
                    counts[pattern] = pattern.visited_pairs(length, length, causal=site.causal)
                total += counts[pattern]
        return total

    def removed_share(self, sites: Iterable[Site], length: int) -> float:
        """Return the share of the model's own pairs that the plan does not visit at `length` tokens."""
        sites = tuple(sites)
        return 1.0 - self.visited_pairs(sites, length) / Plan.dense(sites).visited_pairs(sites, length)

    @property
    def digest(self) -> str:
        """The sha256 of the JSON form."""
        return sha256_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "sites": [
                {"site": name, "heads": [pattern.to_json() for pattern in heads]}
                for name, heads in self.choices
            ],
        }

    @classmethod
    def from_json(cls, value: Any) -> Plan:
        """Raises: ValueError that says what is wrong with the form."""
        check_object("plan", value, ("schema", "sites"))
        if value["schema"] != SCHEMA or not isinstance(value["sites"], list):
            raise ValueError(
                f'plan: wanted an object {{"schema": {SCHEMA}, "sites": [...]}}, got {shown(value)}'
            )
        choices = []
        for entry in value["sites"]:
            check_object("plan: a site's entry", entry, ("site", "heads"))
            check_text("plan: a site's name", entry["site"])
            if not isinstance(entry["heads"], list):
                raise ValueError(f"plan: heads of {entry['site']} are {shown(entry['heads'])}, wanted a list")
            choices.append((entry["site"], tuple(parse_pattern(head) for head in entry["heads"])))
        return cls(tuple(choices))


def own_pattern(site: Site) -> Pattern:
    """Return the pattern the model itself gives to the heads of `site`."""
    return Dense() if site.window is None else Local(site.window, 0)
