"""Parts of results that several commands print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from hcompile.cli.render import milliseconds, print_table, remark, seconds
from hcompile.runtime.crossover import Crossover

if TYPE_CHECKING:
    from hcompile.left import LeftDense
    from hcompile.pipeline.report import NodeTime
    from hcompile.plan import Plan
    from hcompile.policy.certificate import Certificate, Claim
    from hcompile.site import Site


def print_plan(plan: Plan, sites: Iterable[Site]) -> None:
    """Print one row for each attention, how many of its heads have which pattern, and how many of all were learnt."""
    rows = []
    for site in sites:
        counts = Counter(pattern.label() for pattern in plan[site.name])
        heads = ", ".join(f"{count} {label}" for label, count in counts.most_common())
        rows.append((site.name, f"{site.q_heads}/{site.kv_heads} of {site.head_dim}", heads))
    gain = "+gain/keys" if plan.widens else ""
    print_table(("attention", "heads (query/KV)", f"patterns (window+sinks{gain})"), rows)
    click.echo()
    learnt = sum(pattern.has_far_field for _, heads in plan.choices for pattern in heads)
    if learnt:
        click.echo(f"{learnt} linear heads, with features learnt from the calibration data")


def print_left(left: Iterable[LeftDense]) -> None:
    """Print the attention that stays as it is, with the reasons."""
    for attention in left:
        click.echo(f"left as it is: {attention.name}: {attention.reason}")


def refit_line(refit: Mapping[str, Any]) -> str:
    """Return what was refitted as a line; `refit` as in `OptimizeReport.refit`."""
    layers = len(refit["projections"])
    return f"{layers} output projections refitted, for tokens that see more than {refit['start']} keys"


def print_certificate(certificate: Certificate) -> None:
    """Print what a certificate claims, what it says of other lengths, and up to which length it speaks."""
    print_measured(certificate)
    for name, steps in (("shorter", certificate.shorter), ("beyond", certificate.beyond)):
        for step in steps:
            for claim in step.claims:
                click.echo(f"{name}, {step.documents} documents of {step.length} tokens: {_claim(claim)}")
    click.echo(f"the certificate {certificate.coverage}")


def print_measured(certificate: Certificate) -> None:
    """Print what was measured, one line for each budget, and on which inputs."""
    for claim in certificate.claims:
        click.echo(_claim(claim))
    tokens = max(claim.tokens for claim in certificate.claims)
    click.echo(
        f"measured on {certificate.documents} documents, {tokens} tokens in rows of "
        f"{certificate.shortest} to {certificate.longest}, from {certificate.domain} "
        f"({certificate.dtype}, {certificate.padded_rows} rows padded)"
    )


def _claim(claim: Claim) -> str:
    verdict = "holds" if claim.holds else "does NOT hold"
    return (
        f"{claim.metric} {claim.estimate:.3g} {claim.unit}, "
        f"at most {claim.bound:.3g} with {100 * claim.confidence:g}% confidence: "
        f"the budget of {claim.limit:.3g} {verdict}"
    )


def print_crossover(crossover: Mapping[str, Any]) -> None:
    """Print which graph calls take by batch and length, and the times that tell (JSON form of a crossover)."""
    known = Crossover.from_json(crossover)
    rows = [
        (
            str(timing.batch),
            str(timing.length),
            milliseconds(timing.dense_us),
            milliseconds(timing.hybrid_us),
            f"{timing.dense_us / timing.hybrid_us:.2f}x",
            "hybrid" if known.takes_hybrid(timing.batch, timing.length) else "dense",
        )
        for timing in known.timings
    ]
    if rows:
        click.echo()
        print_table((">batch", ">tokens", ">dense ms", ">hybrid ms", ">speedup", "calls take"), rows)
    for batch, start in known.hybrid_from:
        more = " and more" if batch == known.hybrid_from[-1][0] else ""
        graph = "dense at every length" if start is None else f"hybrid from {start} tokens on"
        click.echo(f"batch {batch}{more}: {graph}")


def print_work(stages: Mapping[str, float], kernels_measured: int, nodes: Sequence[NodeTime]) -> None:
    """Say on stderr how long the stages took, and how well the times of the plan's nodes were predicted."""
    if nodes:
        predicted, measured = (
            sum(getattr(node, name) for node in nodes) for name in ("predicted_us", "measured_us")
        )
        remark(
            f"attention at {nodes[0].length} tokens: {milliseconds(predicted)} ms predicted, "
            f"{milliseconds(measured)} ms measured"
        )
    remark(
        f"{kernels_measured} kernels measured; "
        + ", ".join(f"{name} {seconds(s)}" for name, s in stages.items())
    )
