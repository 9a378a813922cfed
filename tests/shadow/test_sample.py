"""Samples of calls: whose memory they are, and in which order a GPU makes and reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from hcompile.shadow.options import ShadowOptions
from hcompile.shadow.sample import Aside, Sample, is_captured
from tests.shadow.test_shadow import PATIENCE_S, logits_of, watch

VALUE = torch.arange(4.0)


def test_a_sample_shares_no_memory_with_its_call() -> None:
    weight = torch.ones(4, requires_grad=True)
    sample = Sample.of([VALUE], [VALUE * weight])
    assert sample.ready is None and torch.equal(sample.inputs[0], VALUE)
    assert sample.inputs[0].data_ptr() != VALUE.data_ptr()
    assert not sample.outputs[0].requires_grad and not is_captured([VALUE])


def test_on_a_cpu_work_aside_needs_nothing() -> None:
    with Aside()(Sample.of([VALUE], [VALUE])):
        pass


class Steps:
    """Stands in for CUDA's streams and notes what is asked of them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.taken: list[Any] = []
        patch.setattr(torch.cuda, "Stream", self._made)
        patch.setattr(torch.cuda, "stream", self._entered)

    def _made(self, device: torch.device, priority: int) -> Steps:
        self.taken.append(("made", priority))
        return self

    @contextmanager
    def _entered(self, stream: Steps) -> Iterator[None]:
        self.taken.append("entered")
        yield
        self.taken.append("left")

    def wait_event(self, event: Any) -> None:
        self.taken.append(("wait", event))

    def synchronize(self) -> None:
        self.taken.append("synchronized")


def test_on_a_gpu_work_aside_waits_for_the_clones_and_is_over_before_they_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps, aside = Steps(monkeypatch), Aside()
    event: Any = object()
    sample = Sample((VALUE,), (VALUE,), event)
    with aside(sample):
        steps.taken.append("work")
    with pytest.raises(torch.OutOfMemoryError), aside(sample):
        raise torch.OutOfMemoryError
    once = ["entered", ("wait", event), "work", "synchronized", "left"]
    assert steps.taken == [("made", 0), *once, "entered", ("wait", event), "synchronized"]


@pytest.mark.gpu
def test_clones_are_made_and_read_in_the_order_of_the_callers_stream() -> None:
    watched = watch(ShadowOptions(1))
    ids = torch.arange(24, device="cuda").reshape(2, 12)
    (logits,) = logits_of((ids.cpu(),))
    weight = logits.to("cuda")
    watched.shadow._dense = lambda inputs: (logits_of((inputs[0].cpu(),))[0].to("cuda"),)
    for _ in range(5):
        given, mask = ids.clone(), torch.ones_like(ids)
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda._sleep(50_000_000)  # the outputs come long after the call has returned
            outputs = weight.clone()
            watched.shadow.observe((given, mask), (outputs,))
            for value in (given, mask, outputs):
                value.zero_()
        assert watched.shadow.drain(PATIENCE_S)
    report = watched.shadow.report()
    assert report.compared == 5 and report.mean == 0.0


@pytest.mark.gpu
def test_a_call_that_a_cuda_graph_records_is_left_alone() -> None:
    watched = watch(ShadowOptions(1))
    ids = torch.zeros(1, 4, dtype=torch.int64, device="cuda")
    mask, logits = torch.ones_like(ids), torch.randn(1, 4, 64, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        doubled = logits * 2
        watched.shadow.observe((ids, mask), (doubled,))
    graph.replay()
    torch.testing.assert_close(doubled, logits * 2)
    report = watched.shadow.report()
    assert (report.sampled, report.dropped) == (1, 1)
