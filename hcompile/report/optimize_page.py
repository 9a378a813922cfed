"""The page of `hcompile optimize`, from its report; the report's JSON form is enough."""

from __future__ import annotations

from hcompile.pipeline.report import OptimizeReport
from hcompile.report import certificate, crossover, heads, kept, patterns, times, trials
from hcompile.report.facts import Facts
from hcompile.report.page import Page, Section
from hcompile.report.verdict import asked, verdict


def optimize_page(report: OptimizeReport, date: str, more: tuple[Section, ...] = ()) -> Page:
    """Return the page.

    Args:
        date: of the page, as it is to be shown.
        more: sections to put at its end.

    Raises:
        UsageError: a part of the report is not what it should be.
    """
    facts = Facts.of(report)
    sections = (
        asked(facts),
        certificate.section(facts),
        heads.section(facts),
        patterns.section(facts),
        trials.section(facts),
        times.section(facts),
        crossover.section(facts),
        kept.section(facts),
    )
    model = facts.run.get("model", report.output)
    return Page(f"hcompile optimize: {model}", verdict(facts), (*sections, *more), date)
