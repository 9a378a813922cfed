"""Everything that stays as the model has it, with the reason."""

from __future__ import annotations

from collections.abc import Iterator

from hcompile.report.facts import Facts, kept
from hcompile.report.page import Block, Section, Table, Text
from hcompile.report.words import count, numbers

_GUARDS = {"binary": "a call whose {} holds anything but 0 and 1 takes the dense graph"}


def section(facts: Facts) -> Section:
    rows = tuple(_rows(facts))
    blocks: Block = Text("Nothing: every head of every attention was changed, for calls of every kind.")
    if rows:
        blocks = Table(("what", "part", "why it is as it was"), rows)
    return Section("kept", "Left as it was", ((blocks,),))


def _rows(facts: Facts) -> Iterator[tuple[str, str, str]]:
    for left in facts.report.left:
        yield left.name, "all", left.reason
    keep = facts.run.get("keep_layers", ())
    for site in facts.sites:
        heads = [head for head, pattern in enumerate(facts.report.plan[site.name]) if kept(pattern, site)]
        if not heads:
            continue
        own = "" if site.window is None else f" (the model's own window of {site.window})"
        if facts.why_dense:
            why = facts.why_dense
        elif site.layer in keep:
            why = "--keep-layers names it"
        else:
            why = (
                "the given plan says so"
                if facts.report.policy is None
                else "the plan chosen within the budget keeps it"
            )
        some = f"{'head' if len(heads) == 1 else 'heads'} {numbers(heads)}"
        part = "all heads" if len(heads) == site.q_heads else some
        yield site.name, part, f"{why}{own}"
    for guard in facts.report.guards:
        yield f"input {guard.input}", "some calls", _GUARDS[guard.kind].format(guard.input)
    for batch, start in facts.crossover.hybrid_from:
        calls = f"calls of {count(batch, 'row')}"
        if start is None:
            yield (
                calls,
                "every length",
                "the hybrid graph was not faster at any length that was timed",
            )
        elif start > 1:
            shorter = [
                each for each in facts.crossover.timings if each.batch == batch and each.length < start
            ]
            why = (
                "the hybrid graph was not always faster there" if shorter else "shorter calls were not timed"
            )
            yield calls, f"below {start} tokens", why
