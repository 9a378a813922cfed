"""A call to be looked at later: what it took and gave, cloned before its caller goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Flat inputs and outputs of a call, clones of the caller's.

    Attributes:
        ready: on a GPU, the event after which the clones hold what they should; None on a CPU.
    """

    inputs: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]
    ready: torch.cuda.Event | None

    @classmethod
    def of(cls, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> Sample:
        """Clone a call on the caller's stream; the host does not wait for the clones."""
        cloned = [tuple(value.detach().clone() for value in values) for values in (inputs, outputs)]
        device = inputs[0].device
        ready = None
        if device.type == "cuda":
            ready = torch.cuda.Event()
            ready.record(torch.cuda.current_stream(device))
        return cls(cloned[0], cloned[1], ready)


def is_captured(inputs: Sequence[torch.Tensor]) -> bool:
    """Return whether a CUDA graph records this call: what it computes is not there yet, and nothing may look."""
    return inputs[0].is_cuda and torch.cuda.is_current_stream_capturing()


class Aside:
    """Where samples are looked at: on a GPU a stream of its own, so that no work of the caller queues behind it."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None

    @contextmanager
    def __call__(self, sample: Sample) -> Iterator[None]:
        """Within, work on a sample is ordered after its clones; afterwards, all of that work is done."""
        if sample.ready is None:
            yield
            return
        if self._stream is None:
            # 0, the default, is the lowest priority that CUDA has: it never goes before the caller's stream.
            self._stream = torch.cuda.Stream(sample.inputs[0].device, priority=0)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(sample.ready)
            try:
                yield
            finally:
                # The clones are the caller's stream's memory, which it may use again as soon as they are dropped.
                self._stream.synchronize()
