"""What a plan decides: units of heads that share one pattern, and the patterns each may have."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from hcompile.errors import UsageError
from hcompile.patterns import Dense, Local, Pattern, default_families, families, menu_of
from hcompile.plan import Plan, own_pattern
from hcompile.site import Site

GRANULARITIES = ("head", "group", "layer")


@dataclass(frozen=True, slots=True)
class Unit:
    """Query heads of one site that get the same pattern.

    Attributes:
        heads: indices of the query heads.
        options: patterns to choose from, the model's own first.
    """

    site: Site
    heads: tuple[int, ...]
    options: tuple[Pattern, ...]

    def __post_init__(self) -> None:
        if not self.heads or not self.options or self.options[0] != own_pattern(self.site):
            raise ValueError(
                f"unit of {self.site.name}: it needs heads, and the model's own pattern as first option"
            )


def menu(site: Site, length: int, chosen: Collection[str] | None = None) -> tuple[Pattern, ...]:
    """Return the patterns of a site that see less than the model's own one at `length` tokens, that one first.

    Args:
        chosen: families to choose from, None for those that learn nothing.
    """
    own = own_pattern(site)
    asked = default_families() if chosen is None else chosen
    patterns = [pattern for family in families() if family in asked for pattern in menu_of(family)]
    if isinstance(own, Dense):
        fits = [pattern for pattern in patterns if pattern.serves(causal=site.causal)]
        return (own, *(pattern for pattern in fits if pattern.hides(length)))
    # Sinks and lists would show a head of a sliding-window model what it never saw.
    limit = min(own.params()[0], length)
    windows = {pattern.window for pattern in patterns if isinstance(pattern, Local)}
    return (own, *(Local(window, 0) for window in sorted(windows) if window < limit))


def units_of(
    sites: Sequence[Site],
    length: int,
    *,
    granularity: str = "head",
    keep_layers: Collection[int] = (),
    chosen: Collection[str] | None = None,
) -> tuple[Unit, ...]:
    """Return the units of a program, sites in execution order.

    Args:
        length: tokens that the plan is made for.
        granularity: "head", "group" (query heads of one KV head) or "layer".
        keep_layers: layers (`Site.layer`) that stay as they are.
        chosen: families of patterns to choose from, None for those that learn nothing.

    Raises:
        UsageError: the settings contradict each other or the model, or leave nothing to choose.
    """
    if granularity not in GRANULARITIES:
        raise UsageError(f"granularity {granularity!r} is unknown: use one of {', '.join(GRANULARITIES)}")
    layers = {site.layer for site in sites}
    unknown = sorted(set(keep_layers) - layers)
    if unknown:
        raise UsageError(
            f"keep-layers {unknown} are not layers of the model: it has attention in {sorted(layers)}"
        )
    if layers and layers <= set(keep_layers):
        raise UsageError("keep-layers keeps every layer, so nothing can be rewritten: leave some out")
    units = []
    for site in sites:
        own = (own_pattern(site),)
        options = own if site.layer in keep_layers else menu(site, length, chosen)
        size = {"head": 1, "group": site.group, "layer": site.q_heads}[granularity]
        units += [
            Unit(site, tuple(range(first, first + size)), options) for first in range(0, site.q_heads, size)
        ]
    if all(len(unit.options) == 1 for unit in units):
        raise UsageError(f"no head can see less at {length} tokens: calibrate at a longer length")
    return tuple(units)


def narrowed(units: Iterable[Unit], length: int) -> tuple[Unit, ...]:
    """Return the units without options that see every key of `length` tokens: nothing measured there speaks of them."""
    return tuple(
        replace(
            unit,
            options=(
                unit.options[0],
                *(option for option in unit.options[1:] if option.hides(length)),
            ),
        )
        for unit in units
    )


def measured(units: Iterable[Unit], kept: Sequence[Sequence[float]]) -> tuple[Unit, ...]:
    """Return the units whose options carry the share of the dense pairs that they were seen to visit."""
    return tuple(
        replace(
            unit,
            options=tuple(option.measured(share) for option, share in zip(unit.options, shares, strict=True)),
        )
        for unit, shares in zip(units, kept, strict=True)
    )


def plan_of(units: Iterable[Unit], choice: Sequence[int]) -> Plan:
    """Return the plan that gives every unit the option of this index."""
    heads: dict[str, dict[int, Pattern]] = {}
    for unit, option in zip(units, choice, strict=True):
        heads.setdefault(unit.site.name, {}).update(dict.fromkeys(unit.heads, unit.options[option]))
    return Plan.of({name: [its[head] for head in sorted(its)] for name, its in heads.items()})
