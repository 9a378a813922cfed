"""The certificate as a section: each claim with the figures it rests on."""

from __future__ import annotations

from collections.abc import Sequence

from hcompile.policy.certificate import LEAST_TO_CERTIFY, AtLength, Claim
from hcompile.report.facts import Facts
from hcompile.report.page import Block, Section, Table, Text
from hcompile.report.words import confidence, count, figure, percent

_COLUMNS = (
    "metric",
    ">estimate",
    ">bound",
    ">limit",
    ">used",
    "unit",
    ">confidence",
    ">tokens",
    "verdict",
)
_SHORTER = "The same module on the beginnings of these documents, since its windows widen with the length."
_LONGER = (
    "The same module on longer documents of the same source, in texts that had no part in the choice. What was "
    "measured is stated, held or not; the verdict does not rest on it."
)
_UNITS = {
    "whole": "whole documents",
    "joined": "texts joined to documents",
    "piece": "pieces of longer texts",
}


def section(facts: Facts) -> Section:
    rows: list[tuple[Block, ...]] = []
    certificate = facts.certificate
    if certificate is None:
        rows.append((Text(f"No certificate: {_why_none(facts)}."),))
    else:
        if not certificate.holds:
            few = certificate.documents < LEAST_TO_CERTIFY
            why = f"fewer than {LEAST_TO_CERTIFY} documents" if few else "a bound is above its limit"
            rows.append(
                (Text(f"This certificate does not hold ({why}), so the artifact is the dense model."),)
            )
        claims = tuple(map(_claim, certificate.claims))
        caption = (
            f"Dense model against the module as it runs, on {count(certificate.documents, 'document')} that had no "
            "part in the choice. Estimate: over all of them. Bound: one-sided, documents resampled."
        )
        rows.append((Table(_COLUMNS, claims, caption),))
        rows.append((Text(f"The certificate {certificate.coverage}."),))
        if certificate.shorter:
            rows.append((_at_lengths(certificate.shorter, _SHORTER),))
        if certificate.beyond:
            rows.append((_at_lengths(certificate.beyond, _LONGER),))
        padded = f", {certificate.padded_rows} of them padded" if certificate.padded_rows else ""
        speaks_of = (
            (
                "documents",
                f"{certificate.documents}, {_UNITS.get(certificate.unit_of_data, certificate.unit_of_data)}",
            ),
            ("domain", certificate.domain),
            ("tokens in a row", f"{certificate.shortest} to {certificate.longest}"),
            ("rows in a batch", f"up to {certificate.rows}{padded}"),
            ("computed in", f"{certificate.dtype} on {certificate.device}"),
            ("documents' sha256", certificate.data_sha256),
            ("plan's sha256", certificate.plan_sha256),
        )
        rows.append((Table(("the claims speak for", ""), speaks_of),))
    rows += [(Text(f"Warning: {warning}."),) for warning in facts.report.warnings]
    return Section("certificate", "Certificate", tuple(rows))


def _claim(claim: Claim) -> tuple[str, ...]:
    return (
        claim.metric,
        figure(claim.estimate),
        figure(claim.bound),
        figure(claim.limit),
        percent(claim.bound / claim.limit, 0) if claim.limit > 0 else "",
        claim.unit,
        confidence(claim.confidence),
        str(claim.tokens),
        "holds" if claim.holds else "does not hold",
    )


def _at_lengths(steps: Sequence[AtLength], caption: str) -> Table:
    rows = tuple(
        (
            str(step.length),
            f"{step.documents}, {_UNITS.get(step.unit_of_data, step.unit_of_data)}",
            *_claim(claim),
        )
        for step in steps
        for claim in step.claims
    )
    return Table((">length", "documents", *_COLUMNS), rows, caption)


def _why_none(facts: Facts) -> str:
    if facts.report.outcome == "plan":
        return "a dry run compiles nothing that could be measured"
    if facts.why_dense:
        return f"there is no plan to certify, since {facts.why_dense}"
    return "there was no held-out data to measure one on"
