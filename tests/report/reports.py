"""Made-up reports of `hcompile optimize`, one for each outcome, as their JSON form says them."""

from __future__ import annotations

from typing import Any

from hcompile.patterns import Dense, Local, Pattern
from hcompile.pipeline.report import OptimizeReport
from hcompile.plan import Plan
from hcompile.site import Site

LENGTH = 1024
SITES = (
    Site("model.layers.0.self_attn", 0, 4, 2, 16, 0.25, causal=True),
    Site("model.layers.1.self_attn", 1, 4, 2, 16, 0.25, causal=True, window=512),
    Site("encoder.attn", 2, 4, 4, 16, 0.25, causal=False),
)


def plan(*first: Pattern) -> Plan:
    """Return a plan with these patterns on the heads of the first layer."""
    window = Local(512)
    return Plan.of(
        {
            SITES[0].name: first or (Dense(), Local(64, 4), Local(64, 4), Local(16)),
            SITES[1].name: (window, window, Local(64), window),
            SITES[2].name: (Local(64, 4),) * 4,
        }
    )


CHOSEN = plan()
BOLD = plan(*(Local(16),) * 4)


def trial(plan: Plan, measured: float, latency_us: float, stage: str = "profile") -> dict[str, Any]:
    bounds = [1.1 * measured, 2.2 * measured]
    return {
        "stage": stage,
        "plan": plan.to_json(),
        "predicted": 0.8 * measured,
        "measured": [measured, 2 * measured],
        "likely_bound": bounds,
        "used": [bounds[0] / 0.0027, bounds[1] / 0.009],
        "latency_us": latency_us,
        "accepted": measured < 0.0024,
    }


def claim(metric: str, limit: float, bound: float) -> dict[str, Any]:
    return {
        "metric": metric,
        "unit": "nats a token",
        "limit": limit,
        "estimate": 0.9 * bound,
        "bound": bound,
        "confidence": 0.955,
        "tokens": 65536,
        "holds": bound <= limit,
    }


def certificate(bound: float = 0.0024) -> dict[str, Any]:
    return {
        "schema": 2,
        "claims": [claim("kl", 0.003, bound), claim("nll", 0.01, 0.004)],
        "documents": 64,
        "shortest": 900,
        "longest": LENGTH,
        "rows": 4,
        "padded_rows": 3,
        "data_sha256": "a" * 64,
        "domain": "stdlib",
        "unit_of_data": "whole",
        "dtype": "float32",
        "device": "AMD EPYC 9R14",
        "plan_sha256": CHOSEN.digest,
        "holds": bound <= 0.003,
    }


RUN: dict[str, Any] = {
    "model": "examples/byte-llama",
    "kind": "transformers",
    "budgets": ["kl=0.003", "nll=0.01"],
    "metric": None,
    "lengths": [256, LENGTH],
    "granularity": "head",
    "keep_layers": [],
    "plan": None,
    "calib": "stdlib",
    "verify": None,
    "documents": {"profile": 12, "repair": 24, "certify": 64},
    "dtype": "float32",
    "backend": "tvm_cpu",
    "device": {
        "kind": "cpu",
        "model": "AMD EPYC 9R14",
        "isa": "znver4",
        "cores": 2,
        "threads": 2,
        "memory_class": "8GiB",
    },
    "versions": {"hcompile": "0.1.0", "torch": "2.13.0", "triton": "none"},
    "seed": 0,
    "rounds": [5, 40],
    "date": "2026-01-31",
}


def hybrid(**changes: Any) -> dict[str, Any]:
    """Return the JSON of a run whose plan held; `changes` replace fields."""
    policy = {
        "plan": CHOSEN.to_json(),
        "why_dense": "",
        "limits": [0.003, 0.01],
        "latency_us": 700.0,
        "dense_latency_us": 2000.0,
        "trials": [trial(BOLD, 0.004, 500.0), trial(CHOSEN, 0.0021, 700.0, "refine")],
        "data_sha256": "b" * 64,
    }
    timings = [(1, 256, 900.0, 1000.0), (1, LENGTH, 6000.0, 3000.0), (4, 256, 4000.0, 3900.0)]
    value: dict[str, Any] = {
        "output": "model.hcm",
        "outcome": "hybrid",
        "sites": [site.to_json() for site in SITES],
        "left": [{"name": "cross.attn", "reason": "its mask is no function of positions"}],
        "guards": [{"kind": "binary", "input": "attention_mask"}],
        "plan": CHOSEN.to_json(),
        "removed": {str(length): CHOSEN.removed_share(SITES, length) for length in (256, LENGTH)},
        "certificate": certificate(),
        "policy": policy,
        "nodes": [
            {
                "site": site.name,
                "length": LENGTH,
                "predicted_us": 200.0 + 50 * site.layer,
                "measured_us": 260.0,
            }
            for site in SITES
        ],
        "crossover": {
            "hybrid_from": {"1": LENGTH, "4": None},
            "timings": [
                {"batch": batch, "length": length, "dense_us": dense, "hybrid_us": mixed}
                for batch, length, dense, mixed in timings
            ],
        },
        "linear_library": "default",
        "stages": {"import": 1.5, "tune": 75.0, "choose": 30.0, "certify": 12.0, "write": 0.2},
        "kernels_measured": 42,
        "warnings": [],
        "run": RUN,
        "refit": None,
    }
    return value | changes


def dense(**changes: Any) -> dict[str, Any]:
    """Return the JSON of a run whose certificate did not hold."""
    own = Plan.dense(SITES)
    return hybrid(
        **{
            "outcome": "dense",
            "plan": own.to_json(),
            "removed": {"256": 0.0, str(LENGTH): 0.0},
            "certificate": certificate(0.0035),
            "nodes": [],
            "crossover": {"hybrid_from": {}, "timings": []},
            "warnings": ["a plan was not certified on fresh documents; a more careful one is tried once"],
            **changes,
        }
    )


def out_of_reach(**changes: Any) -> dict[str, Any]:
    """Return the JSON of a run in which no measured plan held the budget."""
    policy = hybrid()["policy"] | {
        "plan": Plan.dense(SITES).to_json(),
        "why_dense": "no measured plan is likely to hold kl=0.003",
        "latency_us": 2000.0,
        "trials": [trial(BOLD, 0.004, 500.0)],
    }
    return dense(**{"certificate": None, "policy": policy, "warnings": [], **changes})


def dry_run(**changes: Any) -> dict[str, Any]:
    """Return the JSON of a run that ended with a plan."""
    fields: dict[str, Any] = {
        "outcome": "plan",
        "output": "plan.json",
        "certificate": None,
        "nodes": [],
        "crossover": None,
    }
    return hybrid(**{**fields, **changes})


def empty(**changes: Any) -> dict[str, Any]:
    """Return the JSON of a run on a model without attention, whose page has no drawing and is made at once."""
    fields: dict[str, Any] = {
        "sites": [],
        "plan": {"schema": 1, "sites": []},
        "removed": {},
        "certificate": None,
        "stages": {},
    }
    why: dict[str, Any] = {"why_dense": "there is no attention", "trials": [], "dense_latency_us": None}
    return dense(**{**fields, "policy": why, **changes})


def report(value: dict[str, Any]) -> OptimizeReport:
    return OptimizeReport.from_json(value)


def many_heads(heads: int) -> dict[str, Any]:
    """Return the JSON of a run with one layer of so many heads, the first of them dense."""
    site = Site("attn", 0, heads, heads, 16, 0.25, causal=True)
    plan = Plan.of({site.name: (Dense(), *(Local(16),) * (heads - 1))})
    return hybrid(sites=[site.to_json()], plan=plan.to_json(), policy=None, certificate=None, nodes=[])
