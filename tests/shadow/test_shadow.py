"""The shadow: which calls it samples, what it compares, and that no caller ever waits for it or hears of its errors."""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch

from hcompile.errors import UsageError
from hcompile.policy.interface import Interface
from hcompile.policy.metrics import metric_of
from hcompile.program import InputSpec
from hcompile.shadow.options import ShadowOptions
from hcompile.shadow.report import ShadowReport
from hcompile.shadow.shadow import Shadow

INPUTS = (
    InputSpec("input_ids", "int64", ("b", "s")),
    InputSpec("attention_mask", "int64", ("b", "s"), "ones"),
)
INTERFACE = Interface(INPUTS, 0, 1, 0, True)
ROWS, LENGTH, VOCABULARY = 2, 12, 64
PATIENCE_S = 30.0

Tensors = Sequence[torch.Tensor]


def logits_of(inputs: Tensors) -> tuple[torch.Tensor, ...]:
    """A dense model: logits that depend on the ids alone."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(VOCABULARY, VOCABULARY, generator=generator)[inputs[0]],)


def changed(inputs: Tensors, by: float) -> tuple[torch.Tensor, ...]:
    """A hybrid model: one logit of each token is off."""
    (logits,) = logits_of(inputs)
    logits[..., 0] += by
    return (logits,)


@dataclass
class Watched:
    """A shadow and a caller for it."""

    shadow: Shadow
    reports: list[ShadowReport] = field(default_factory=list)
    number: int = 0

    def call(self, by: float = 0.0, *, padded: int = 0) -> tuple[torch.Tensor, ...]:
        """Make a call whose hybrid is off by `by`, and wait until it is compared."""
        generator = torch.Generator().manual_seed(self.number)
        self.number += 1
        ids = torch.randint(VOCABULARY, (ROWS, LENGTH), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, :padded] = 0
        outputs = changed((ids,), by)
        self.shadow.observe((ids, mask), outputs)
        assert self.shadow.drain(PATIENCE_S)
        return outputs


def watch(
    options: ShadowOptions,
    dense: Callable[[Tensors], Tensors] = logits_of,
    metric: str = "kl",
    limit: float = 0.01,
    on_drift: Callable[[ShadowReport], object] | None = None,
) -> Watched:
    reports: list[ShadowReport] = []
    keep = reports.append if on_drift is None else on_drift
    return Watched(Shadow("m.hcm", dense, INTERFACE, metric_of(metric), limit, options, keep), reports)


def test_the_share_of_the_calls_is_chosen_by_the_seed() -> None:
    def chosen(seed: int) -> list[int]:
        sampled: list[int] = []

        def dense(inputs: Tensors) -> Tensors:
            sampled.append(watched.number)
            return logits_of(inputs)

        watched = watch(ShadowOptions(0.2, seed=seed), dense)
        for _ in range(200):
            watched.call()
        return sampled

    assert chosen(1) == chosen(1) != chosen(2)
    assert 20 < len(chosen(1)) < 60


def test_all_calls_are_compared_where_the_share_is_one() -> None:
    watched = watch(ShadowOptions(1))
    for _ in range(5):
        watched.call()
    report = watched.shadow.report()
    assert (report.calls, report.sampled, report.compared, report.dropped, report.failed) == (5, 5, 5, 0, 0)
    assert report.mean == 0.0 and report.lower is None and not report.drifting


@pytest.mark.parametrize("metric", ["kl", "nll", "cosine"])
@pytest.mark.parametrize("padded", [0, 5])
def test_what_is_compared_is_the_metric_of_valid_tokens(metric: str, padded: int) -> None:
    """What differs in padding only is no degradation, what differs elsewhere is one."""
    watched = watch(ShadowOptions(1), metric=metric)
    ids = torch.arange(ROWS * LENGTH).reshape(ROWS, LENGTH)
    mask = torch.ones_like(ids)
    mask[0, :padded] = 0
    (logits,) = logits_of((ids,))
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))
    watched.shadow.observe((ids, mask), (torch.where(mask.bool()[..., None], logits, noise),))
    assert watched.shadow.drain(PATIENCE_S)
    assert watched.shadow.report().mean == 0.0
    watched.shadow.observe((ids, mask), (logits + noise,))
    assert watched.shadow.drain(PATIENCE_S)
    assert watched.shadow.report().mean != 0.0


def test_the_mean_is_the_certificates_ratio_of_sums() -> None:
    watched, expected = watch(ShadowOptions(1)), []
    for padded, by in ((0, 0.5), (9, 0.1)):
        outputs = watched.call(by, padded=padded)
        ids = torch.randint(
            VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(watched.number - 1)
        )
        p, q = (value[0].double().log_softmax(-1) for value in (logits_of((ids,)), outputs))
        each = (p.exp() * (p - q)).sum(-1)
        expected += [each[0, padded:], each[1]]
    assert watched.shadow.report().mean == pytest.approx(float(torch.cat(expected).mean()))


def test_a_caller_may_change_its_tensors_at_once() -> None:
    entered, may_go = threading.Event(), threading.Event()

    def dense(inputs: Tensors) -> Tensors:
        entered.set()
        assert may_go.wait(PATIENCE_S)
        return logits_of(inputs)

    watched = watch(ShadowOptions(1), dense)
    ids = torch.arange(ROWS * LENGTH).reshape(ROWS, LENGTH)
    mask, (logits,) = torch.ones_like(ids), logits_of((ids,))
    watched.shadow.observe((ids, mask), (logits,))
    assert entered.wait(PATIENCE_S)
    for value in (ids, mask, logits):
        value.zero_()
    may_go.set()
    assert watched.shadow.drain(PATIENCE_S)
    assert watched.shadow.report().mean == 0.0


def test_while_a_sample_is_compared_others_are_dropped_and_nobody_waits() -> None:
    may_go = threading.Event()

    def dense(inputs: Tensors) -> Tensors:
        assert may_go.wait(PATIENCE_S)
        return logits_of(inputs)

    watched = watch(ShadowOptions(1, queue=2), dense)
    ids = torch.zeros(1, 4, dtype=torch.int64)
    for _ in range(5):
        watched.shadow.observe((ids, torch.ones_like(ids)), logits_of((ids,)))
    assert watched.shadow.report().dropped == 3
    may_go.set()
    assert watched.shadow.drain(PATIENCE_S)
    report = watched.shadow.report()
    assert (report.sampled, report.compared, report.dropped) == (5, 2, 3)


def test_a_call_that_a_cuda_graph_records_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hcompile.shadow.shadow.is_captured", lambda inputs: True)
    watched = watch(ShadowOptions(1))
    watched.call()
    report = watched.shadow.report()
    assert (report.sampled, report.dropped, report.compared) == (1, 1, 0)


def test_drift_is_reported_once_and_again_after_it_has_passed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hcompile.shadow")
    watched = watch(ShadowOptions(1, window=50))
    for by in (0.05, 1.5, 0.05, 1.5):
        for _ in range(100):
            watched.call(by)
    assert [report.drifts for report in watched.reports] == [1, 2]
    for report in watched.reports:
        assert report.drifting and report.window == 50
        assert report.recent is not None and report.recent > 0.01
        assert report.mean is not None and report.lower is not None and report.upper is not None
        assert report.lower <= report.mean <= report.upper
    said = [record.getMessage() for record in caplog.records]
    assert [text.split(": ")[1] for text in said] == ["drift", "the drift has passed", "drift"]
    assert all("\n" not in text and text.startswith("m.hcm: ") and "limit 0.01" in text for text in said)


def test_before_enough_samples_no_drift_is_reported() -> None:
    watched = watch(ShadowOptions(1, least=30))
    for _ in range(30):
        watched.call(5.0)
    assert not watched.reports
    for _ in range(30):
        watched.call(5.0)
    assert len(watched.reports) == 1 and watched.reports[0].compared > 30


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no memory"), UsageError("no such row"), KeyError("x")]
)
def test_an_error_of_the_dense_run_is_counted_and_logged_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def dense(inputs: Tensors) -> Tensors:
        raise error

    watched = watch(ShadowOptions(1), dense)
    for _ in range(3):
        watched.call()
    report = watched.shadow.report()
    assert (report.sampled, report.failed, report.compared) == (3, 3, 0)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and type(error).__name__ in record.getMessage()


def test_an_output_that_is_not_finite_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    watched = watch(ShadowOptions(1))
    for _ in range(2):
        watched.call(float("nan"))
    assert watched.shadow.report().failed == 2
    (record,) = caplog.records
    assert "the hybrid model's output is not finite on a sampled call" in record.getMessage()


def test_a_call_of_padding_alone_is_no_sample(caplog: pytest.LogCaptureFixture) -> None:
    watched = watch(ShadowOptions(1))
    ids = torch.zeros(1, 4, dtype=torch.int64)
    watched.shadow.observe((ids, torch.zeros_like(ids)), logits_of((ids,)))
    assert watched.shadow.drain(PATIENCE_S)
    assert watched.shadow.report().failed == 1
    assert "no token that counts" in caplog.text


def test_clones_that_cannot_be_made_do_not_reach_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    class Unclonable(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func is torch.Tensor.clone:
                raise torch.OutOfMemoryError("no memory")
            return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]

    watched = watch(ShadowOptions(1))
    ids = torch.zeros(1, 4, dtype=torch.int64)
    for _ in range(3):  # the place was given back
        watched.shadow.observe((ids, torch.ones_like(ids)), (logits_of((ids,))[0].as_subclass(Unclonable),))
    report = watched.shadow.report()
    assert (report.failed, report.dropped) == (3, 0) and len(caplog.records) == 1


def test_a_callback_that_raises_is_logged_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def on_drift(report: ShadowReport) -> None:
        raise ValueError("pager is off")

    watched = watch(ShadowOptions(1), on_drift=on_drift)
    for _ in range(60):
        watched.call(1.5)
    report = watched.shadow.report()
    assert report.drifting and report.failed == 0 and report.compared == 60
    assert "on_drift raised" in caplog.text and "pager is off" in caplog.text


def test_closed_it_keeps_its_report_and_sees_no_more() -> None:
    watched = watch(ShadowOptions(1))
    watched.call()
    assert watched.shadow.close(PATIENCE_S)
    watched.call()
    assert watched.shadow.report().calls == 1
    assert watched.shadow.close(PATIENCE_S)


def test_callers_on_many_threads_are_all_counted() -> None:
    watched = watch(ShadowOptions(0.5, queue=4))
    ids = torch.zeros(1, 4, dtype=torch.int64)

    def call() -> None:
        for _ in range(50):
            watched.shadow.observe((ids, torch.ones_like(ids)), logits_of((ids,)))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert watched.shadow.drain(PATIENCE_S)
    report = watched.shadow.report()
    assert report.calls == 200
    assert report.sampled == report.dropped + report.compared and report.failed == 0


def test_it_cannot_be_pickled_and_says_so_at_once() -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(watch(ShadowOptions(1)).shadow)


def test_a_warm_up_that_fails_is_logged_only(caplog: pytest.LogCaptureFixture) -> None:
    def dense(inputs: Tensors) -> Tensors:
        raise torch.OutOfMemoryError("no memory")

    watched = watch(ShadowOptions(1), dense)
    watched.shadow.warm([torch.zeros(1, 4, dtype=torch.int64)])
    assert watched.shadow.report().failed == 0 and "no memory" in caplog.text


def test_the_json_form_of_a_report_is_one() -> None:
    watched = watch(ShadowOptions(1))
    for _ in range(25):
        watched.call(0.3)
    report = watched.shadow.report()
    assert ShadowReport.from_json(report.to_json()) == report
    for wrong in ({"calls": 24}, {"sampled": 26}, {"mean": float("nan")}, {"drifting": 1}, {"limit": -1.0}):
        with pytest.raises(ValueError, match="shadow: "):
            ShadowReport.from_json({**report.to_json(), **wrong})
    with pytest.raises(ValueError, match="missing fields"):
        ShadowReport.from_json({})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "share 0.0 is no part of the calls"),
        ({"share": 1.5}, "share 1.5"),
        ({"share": float("nan")}, "share nan"),
        ({"share": True}, "share True"),
        ({"share": "0.1"}, "share '0.1'"),
        ({"share": 0.1, "least": 5}, "least 5 is too small: pass at least 20"),
        ({"share": 0.1, "window": 10}, "window 10 is too small: pass at least 20"),
        ({"share": 0.1, "queue": 0}, "queue 0 is too small: pass at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ShadowOptions(**options)  # type: ignore[arg-type]
