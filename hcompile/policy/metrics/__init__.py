"""Metrics. A new one is a file here and a line below."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, cast

from hcompile.errors import UsageError

if TYPE_CHECKING:
    from hcompile.policy.metrics.base import Metric

_METRICS = {
    "cosine": "hcompile.policy.metrics.cosine:Cosine",
    "greedy": "hcompile.policy.metrics.greedy:Greedy",
    "kl": "hcompile.policy.metrics.kl:KL",
    "nll": "hcompile.policy.metrics.nll:NLL",
    "recall": "hcompile.policy.metrics.recall:Recall",
    "top1": "hcompile.policy.metrics.top1:Top1",
}

_TAIL = re.compile(r"(.+)\.p(\d+(?:\.\d+)?)")


def metric_of(name: str, function: str | None = None) -> Metric:
    """Return the metric that a budget names.

    Args:
        name: a registered name, or one with a percentile, such as `kl.p99`; with `function`, that function's name.
        function: `package.module:function` of a user's own metric.

    Raises:
        UsageError: there is none of this name, the percentile is none of a tail, or the budget names
            another metric than the function.
    """
    if function is not None:
        from hcompile.policy.metrics.user import UserMetric

        wanted = function.rpartition(":")[2]
        if name != wanted:
            raise UsageError(
                f"budget {name}=... does not name the metric {function}: write --budget {wanted}=LIMIT"
            )
        return UserMetric(function)
    if (tail := _TAIL.fullmatch(name)) and tail[1] in _METRICS:
        from hcompile.policy.metrics.tail import Tail

        return Tail(metric_of(tail[1]), float(tail[2]))
    if name not in _METRICS:
        known = ", ".join(sorted(_METRICS))
        raise UsageError(
            f"metric {name!r} is unknown: use one of {known}, or --metric package.module:function"
        )
    module, _, attribute = _METRICS[name].partition(":")
    return cast("Metric", getattr(import_module(module), attribute)())
