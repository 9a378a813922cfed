"""What came out, in one sentence, and what was asked for. Only figures that were measured or counted stand here."""

from __future__ import annotations

from collections.abc import Iterator

from hcompile.report.facts import Facts
from hcompile.report.page import Section, Table
from hcompile.report.words import NONE, confidence, count, figure, listed, milliseconds, numbers, percent


def verdict(facts: Facts) -> str:
    """Return one sentence."""
    report = facts.report
    if facts.why_dense:
        return f"The {'plan' if report.outcome == 'plan' else 'model'} stays dense: {facts.why_dense}."
    parts = [
        f"{percent(report.removed.get(facts.length, 0.0))} of the attention pairs at {facts.length} tokens are removed"
    ]
    certificate = facts.certificate
    if certificate is None:
        parts.append("the loss of quality is not certified")
    else:
        parts += [
            f"{claim.metric} at most {figure(claim.bound)} of the allowed {figure(claim.limit)} with "
            f"{confidence(claim.confidence)} confidence"
            for claim in certificate.claims
        ]
        parts.append(f"the certificate {certificate.coverage}")
    if report.outcome == "plan":
        parts.append("a dry run, so nothing was compiled or timed")
    else:
        parts.append(_speed(facts))
    return "; ".join(parts) + "."


def _speed(facts: Facts) -> str:
    timing = facts.planned_call()
    if timing is None:
        return "whole calls were not timed"
    call = f"a call of {timing.batch} x {timing.length} tokens measured at "
    call += f"{milliseconds(timing.hybrid_us)} ms, dense at {milliseconds(timing.dense_us)} ms"
    if timing.hybrid_us < timing.dense_us:
        call += f" ({timing.dense_us / timing.hybrid_us:.2f}x as fast)"
    if not facts.crossover.takes_hybrid(timing.batch, timing.length):
        call += ", so it takes the dense graph"
    return call


def asked(facts: Facts) -> Section:
    """Return the section of what was asked for, and where it ran."""
    rows = tuple(_asked(facts))
    return Section("asked", "What was asked", ((Table(("", ""), rows),),))


def _asked(facts: Facts) -> Iterator[tuple[str, str]]:
    report, run = facts.report, facts.run
    yield "written", f"{report.output} ({report.outcome})"
    if not run:
        lengths = sorted(report.removed)
        yield "lengths", listed([str(length) for length in lengths]) + " tokens" if lengths else NONE
        yield "model, budget, device, versions, date", "not recorded in this report"
        return
    yield "model", f"{run['model']} ({run['kind']}, {run['dtype']})"
    yield "budget", listed(run["budgets"])
    if run["metric"]:
        yield "metric of the user's", run["metric"]
    yield (
        "lengths",
        listed([str(length) for length in run["lengths"]]) + f" tokens; planned for {run['lengths'][-1]}",
    )
    if run.get("beyond"):
        yield "lengths beyond", listed([str(length) for length in run["beyond"]]) + " tokens"
    if run.get("widen"):
        yield "windows", "may widen with the length"
    yield "a pattern for each", run["granularity"]
    if run.get("families"):
        yield "kinds of patterns", ", ".join(run["families"])
    if run.get("cost", "time") != "time":
        yield "plans for few", run["cost"] + ": times that are predicted follow from them"
    if run.get("cost_at", run["lengths"][-1]) != run["lengths"][-1]:
        yield "to cost little at", f"{run['cost_at']} tokens"
    if report.refit:
        projections = count(len(report.refit["projections"]), "output projection")
        yield "refitted", f"{projections}, for tokens that see more than {report.refit['start']} keys"
    if run["keep_layers"]:
        yield "layers to keep", numbers(sorted(run["keep_layers"]))
    if run["plan"]:
        yield "plan given", run["plan"]
    yield "calibration data", run["calib"] or "the model's own sample inputs"
    if run["verify"]:
        yield "data for the certificate", run["verify"]
    if run["documents"]:
        yield "documents", ", ".join(f"{number} to {use}" for use, number in run["documents"].items())
    device = run["device"]
    yield (
        "device",
        f"{device['model']}, {count(device['threads'], 'thread')}, {device['isa']} ({run['backend']})",
    )
    yield "matrix products by", report.linear_library
    yield (
        "versions",
        ", ".join(f"{name} {version}" for name, version in run["versions"].items() if version != "none"),
    )
    yield "seed", str(run["seed"])
    yield "run on", run["date"]
