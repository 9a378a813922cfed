"""Watching a loaded artifact: what its shadow compares, with what, and from where on that is drift."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hcompile.artifact.load import Opened
from hcompile.artifact.manifest import Manifest
from hcompile.budget import Budget
from hcompile.checks import shown
from hcompile.errors import UsageError
from hcompile.policy.certificate import Certificate
from hcompile.policy.interface import Interface
from hcompile.policy.metrics import metric_of
from hcompile.policy.statistics import MEAN
from hcompile.runtime.dense import dense_call
from hcompile.shadow.options import ShadowOptions
from hcompile.shadow.shadow import OnDrift, Shadow

if TYPE_CHECKING:
    from hcompile.policy.metrics.base import Metric


def shadow_of(
    path: str | Path, opened: Opened, shadow: float | ShadowOptions, on_drift: OnDrift | None = None
) -> Shadow:
    """Return a shadow for the module of an artifact.

    Args:
        shadow: the share of the calls, or all options.

    Raises:
        UsageError: an option is wrong, or neither the options nor the artifact say which metric to hold to which limit.
    """
    options = shadow if isinstance(shadow, ShadowOptions) else ShadowOptions(shadow)
    metric, limit = _claim(path, opened.manifest, options)
    interface = Interface.of(opened.program, opened.manifest.length_axis)
    metric.check(interface, opened.program.sites)
    dense = dense_call(opened.program, opened.lowered, interface.mask)
    return Shadow(str(path), dense, interface, metric, limit, options, on_drift)


def _claim(path: str | Path, manifest: Manifest, options: ShadowOptions) -> tuple[Metric, float]:
    """Return the metric and the largest degradation that is no drift, as the metric counts it."""
    if options.budget is not None:
        try:
            budget = Budget.parse(options.budget)
        except ValueError as error:
            raise UsageError(f"shadow: {error}") from error
        metric = metric_of(budget.metric, options.metric)
        if metric.own_documents:
            raise UsageError(
                f"shadow: {metric.label()} is measured on documents made for it, which calls are not: watch kl=0.003"
            )
        return metric, metric.limit(budget.limit)
    if manifest.certificate is None:
        raise UsageError(
            f"{path} carries no certificate, so nothing says what drift is: optimize with --calib, "
            "or pass ShadowOptions(share, budget='kl=0.003')"
        )
    claims = Certificate.from_json(dict(manifest.certificate)).claims
    for claim in claims:
        foreign = ":" in claim.metric
        if foreign and options.metric != claim.metric:
            continue  # An artifact must not choose code to run.
        metric = metric_of(claim.metric.rpartition(":")[2], claim.metric if foreign else None)
        # A call is no sample of a tail, and none of the documents that other metrics make.
        if metric.statistic is MEAN:
            return metric, claim.limit
    names = ", ".join(shown(claim.metric) for claim in claims)
    raise UsageError(
        f"{path}: its certificate is of {names}, which calls alone cannot be held to: pass ShadowOptions(share, "
        "budget='kl=0.003'), or ShadowOptions(share, metric=...) to run a metric that is no part of hcompile"
    )
