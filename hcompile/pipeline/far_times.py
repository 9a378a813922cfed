"""What a linear far field takes beside the kernel of its node: measured once for each window and length, and kept, so
that the same job finds the same plan again."""

from __future__ import annotations

from functools import partial
from statistics import median

import torch

from hcompile.far_field import far_field
from hcompile.patterns import Pattern
from hcompile.patterns.linear import FEATURES
from hcompile.policy.memory import Memory
from hcompile.site import Site
from hcompile.tuning.timing import Rounds, graph_clock, time_calls

_ROUNDS = Rounds(least=3, most=10, enough_s=0.1)


class FarTimes:
    """Times of single heads on random inputs."""

    def __init__(self, dtype: str, device: torch.device, memory: Memory) -> None:
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._device = device
        self._memory = memory
        self._known: dict[tuple[int, int, int, int], float] = {}

    def head_us(self, site: Site, pattern: Pattern, length: int) -> float:
        """Return what the far field of one head takes at `length` tokens in microseconds, 0 where it has none."""
        if not pattern.has_far_field:
            return 0.0
        window, sinks = pattern.far()
        sizes = (site.head_dim, length, window, sinks)
        if sizes not in self._known:
            key = {"head_dim": site.head_dim, "length": length, "window": window, "sinks": sinks}
            kept = self._memory.recall("pipeline.far_times", key)
            if kept is None:
                kept = {"latency_us": self._time_us(*sizes)}
                self._memory.keep("pipeline.far_times", key, kept)
            self._known[sizes] = float(kept["latency_us"])
        return self._known[sizes]

    def _time_us(self, head_dim: int, length: int, window: int, sinks: int) -> float:
        q, k, v = torch.randn(3, 1, 1, length, head_dim, device=self._device).to(self._dtype)
        maps = torch.randn(1, 2, FEATURES, head_dim + 1, device=self._device)
        call = partial(far_field, q, k, v, None, maps, window, sinks, 0, head_dim**-0.5)
        with torch.inference_mode():
            (times,) = time_calls([call], _ROUNDS, graph_clock(self._device.type)).times_us
        return median(times)
