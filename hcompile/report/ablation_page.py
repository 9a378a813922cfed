"""The page of `hcompile ablate`, from its result; the JSON form is enough."""

from __future__ import annotations

from collections.abc import Iterator

from hcompile.pipeline.ablation import MAIN, Ablation
from hcompile.report import removal, sensitivity
from hcompile.report.page import Page, Section, Table, Text
from hcompile.report.words import NONE, confidence, count, figure, listed, percent


def ablation_page(found: Ablation, date: str) -> Page:
    """Return the page; `date` is the page's, as it is to be shown."""
    lengths = removal.over_lengths(found)
    sections = (
        _asked(found),
        removal.section(found),
        *(() if lengths is None else (lengths,)),
        sensitivity.section(found),
    )
    return Page(f"hcompile ablate: {found.model}", _verdict(found), sections, date)


def _verdict(found: Ablation) -> str:
    verdicts = found.verdicts()
    if not any(point.curve == MAIN for point in found.points):
        return "No plan was measured, so nothing is known of how much attention can go."
    if not verdicts:
        return f"{found.metric} was measured as attention was removed; no limit was named for it."
    length = max(verdict.length for verdict in verdicts)
    parts = []
    for verdict in (each for each in verdicts if each.length == length):
        held = (
            f"{percent(verdict.held)} of the pairs can go within {found.metric} {figure(verdict.limit)}"
            if verdict.held
            else f"no measured plan holds {found.metric} {figure(verdict.limit)}"
        )
        passed = "" if verdict.passed is None else f" (not {percent(verdict.passed)})"
        parts.append(held + passed)
    return f"At {length} tokens, {listed(parts)}."


def _asked(found: Ablation) -> Section:
    rows = tuple(_facts(found))
    warnings = ((Text(line),) for line in found.warnings)
    return Section("asked", "What was measured", ((Table(("asked", "for"), rows),), *warnings))


def _facts(found: Ablation) -> Iterator[tuple[str, str]]:
    heads = sum(site.q_heads for site in found.sites)
    yield "model", f"{found.model} ({found.dtype})"
    yield "attention", f"{count(len(found.sites), 'layer')} of {count(heads, 'query head')} together"
    yield "metric", f"{found.metric} in {found.unit}, against the dense model"
    yield "budget", found.budget or NONE
    documents = sorted({point.documents for point in found.points})
    yield "documents", f"{', '.join(map(str, documents)) or NONE} from {found.source}"
    yield "lengths", listed([str(length) for length in found.lengths]) + " tokens"
    yield (
        "intervals",
        f"{confidence(found.confidence)}, documents resampled; points of one curve share documents",
    )
    yield "plans measured", str(len(found.points))
    yield "device", found.device
    yield "seed", str(found.seed)
