"""The shadow of a compiled module: a share of its hybrid calls, run through the dense model too, and compared."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import torch

from hcompile.errors import HCompileError, UsageError
from hcompile.policy.batches import batch_of_call
from hcompile.policy.drift import DriftTest
from hcompile.policy.interface import Interface
from hcompile.policy.measure import Call
from hcompile.policy.metrics.base import Metric
from hcompile.policy.metrics.score import DocumentScore, degradation, merged
from hcompile.policy.statistics import lower_bound, upper_bound
from hcompile.shadow.background import Background
from hcompile.shadow.options import ShadowOptions
from hcompile.shadow.report import ShadowReport
from hcompile.shadow.sample import Aside, Sample, is_captured

CONFIDENCE = 0.95

OnDrift = Callable[[ShadowReport], object]
"""Called once for each drift, on the shadow's thread."""

_logger = logging.getLogger("hcompile.shadow")


class Shadow:
    """Watches hybrid calls. Safe to call from several threads; what goes wrong in it never reaches a caller.

    A call is one sample, its rows together, since rows of one call may be alike. Drift, errors (each kind once) and
    the end of a drift are logged as "hcompile.shadow".
    """

    def __init__(
        self,
        artifact: str,
        dense: Call,
        interface: Interface,
        metric: Metric,
        limit: float,
        options: ShadowOptions,
        on_drift: OnDrift | None = None,
    ) -> None:
        """`limit`: the largest degradation, as the metric counts it (`Metric.limit`)."""
        self.options = options
        self._artifact = artifact
        self._dense = dense
        self._interface = interface
        self._metric = metric
        self._limit = limit
        self._on_drift = on_drift
        self._background = Background("hcompile-shadow", options.queue)
        self._aside = Aside()
        self._random = random.Random(options.seed)
        self._test = DriftTest(limit, options.window, options.least)
        self._scores: deque[DocumentScore] = deque(maxlen=options.window)
        self._known: set[str] = set()
        self._calls = self._sampled = self._dropped = self._failed = self._compared = self._drifts = 0

    def observe(self, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> None:
        """Count a hybrid call and, if it is chosen, clone it to be compared; nothing here waits for a comparison."""
        with self._background.lock:
            if self._background.closed:
                return
            self._calls += 1
            if self._random.random() >= self.options.share:
                return
            self._sampled += 1
            if is_captured(inputs) or not self._background.reserve():
                self._dropped += 1
                return
        try:
            self._background.submit(partial(self._compare, [Sample.of(inputs, outputs)]))
        except Exception as error:  # noqa: BLE001  the caller's answer is there, whatever becomes of its clones
            self._background.release()
            self._note_failure(error)

    def warm(self, inputs: Sequence[torch.Tensor]) -> None:
        """Compile the dense graph and run it, so that it is not compiled beside real calls."""
        try:
            self._dense(inputs)
        except Exception as error:  # noqa: BLE001  the model itself is warm
            self._log_once(error)

    def report(self) -> ShadowReport:
        """Return what was seen so far."""
        with self._background.lock:
            scores = list(self._scores)
            counts = {
                "calls": self._calls,
                "sampled": self._sampled,
                "dropped": self._dropped,
                "failed": self._failed,
                "compared": self._compared,
                "drifts": self._drifts,
            }
            evidence, drifting = self._test.evidence, self._test.drifting
        bounded = len(scores) >= self.options.least
        return ShadowReport(
            artifact=self._artifact,
            metric=self._metric.label(),
            unit=self._metric.unit,
            limit=self._limit,
            window=len(scores),
            mean=degradation(scores) if scores else None,
            lower=lower_bound(scores, CONFIDENCE, self.options.seed) if bounded else None,
            upper=upper_bound(scores, CONFIDENCE, self.options.seed) if bounded else None,
            recent=degradation(scores[-self.options.least :]) if scores else None,
            evidence=evidence,
            drifting=drifting,
            **counts,
        )

    def drain(self, timeout_s: float | None = None) -> bool:
        """Wait until every sample that is held is compared; return False where that takes longer."""
        return self._background.drain(timeout_s)

    def close(self, timeout_s: float | None = None) -> bool:
        """Sample no more and wait for the comparison that runs; return False where that takes longer.

        The report stays, and the module runs on without a shadow.
        """
        return self._background.close(timeout_s)

    def _compare(self, held: list[Sample]) -> None:
        """Compare a sample, which nothing holds any more afterwards."""
        try:
            report = self._judge(self._score(held.pop()))
        except Exception as error:  # noqa: BLE001  a guard that fails must not take the service along
            self._note_failure(error)
            return
        if report is not None and self._on_drift is not None:
            try:
                self._on_drift(report)
            except Exception:
                _logger.exception(
                    "%s: on_drift raised; mend it, the drift is not reported again", self._artifact
                )

    def _score(self, sample: Sample) -> DocumentScore:
        """Return the degradation of a call, its rows together."""
        rows = sample.outputs[self._interface.output].shape[0]
        with torch.inference_mode(), self._aside(sample):
            batch = batch_of_call(sample.inputs, rows, self._interface, "a sampled call")
            dense = self._dense(sample.inputs)
            score = merged(self._metric.score(dense, sample.outputs, batch, self._interface))
        if not score.weight > 0:
            raise UsageError("a sampled call has no token that counts: pass a mask with valid tokens")
        return score

    def _judge(self, score: DocumentScore) -> ShadowReport | None:
        """Take a sample in and return the report where it shows that the model drifts now."""
        with self._background.lock:
            before = self._test.drifting
            self._test.add(score)
            self._scores.append(score)
            self._compared += 1
            now = self._test.drifting
            self._drifts += now and not before
        if now == before:
            return None
        report = self.report()
        if not now:
            _logger.info("%s: the drift has passed: %s", self._artifact, _figures(report))
            return None
        _logger.warning(
            "%s: drift: %s; `hcompile verify` measures a source of such data, calibrating on it mends it",
            self._artifact,
            _figures(report),
        )
        return report

    def _note_failure(self, error: Exception) -> None:
        with self._background.lock:
            self._failed += 1
        self._log_once(error)

    def _log_once(self, error: Exception) -> None:
        kind = str(error) if isinstance(error, HCompileError) else type(error).__name__
        with self._background.lock:
            known = kind in self._known
            self._known.add(kind)
        if not known:
            _logger.warning(
                "%s: a sampled call could not be compared (%s: %s); more of this kind are only counted",
                self._artifact,
                type(error).__name__,
                error,
                exc_info=error,
            )


def _figures(report: ShadowReport) -> str:
    return (
        f"{report.metric} {report.recent:.4g} {report.unit} in the latest samples, {report.mean:.4g} (95 % bounds "
        f"{report.lower:.4g} and {report.upper:.4g}) in the last {report.window}, limit {report.limit:.4g}"
    )
