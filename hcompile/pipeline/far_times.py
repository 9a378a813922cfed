"""What a linear far field takes beside the near field of its head: measured once for each shape and length, and kept,
so that the same job finds the same plan again."""

from __future__ import annotations

from functools import partial
from statistics import median

import torch

from hcompile.codegen.backend import Backend
from hcompile.far_field import FarFields
from hcompile.patterns import Linear, Pattern
from hcompile.patterns.linear import FEATURES
from hcompile.policy.memory import Memory
from hcompile.site import Site
from hcompile.tuning.timing import Rounds, graph_clock, time_calls
from hcompile.workload import bucket

_ROUNDS = Rounds(least=5, most=20, enough_s=0.5)
_HEAD = Linear(32, 16)
"""Whose far field is timed."""


class FarTimes:
    """Times on random inputs: of a node whose heads all have a far field, less what it takes without."""

    def __init__(self, backend: Backend, dtype: str, memory: Memory) -> None:
        self._backend = backend
        self._dtype = dtype
        self._memory = memory
        self._known: dict[tuple[int, ...], float] = {}

    def head_us(self, site: Site, pattern: Pattern, length: int) -> float:
        """Return what the far field of one head takes at `length` tokens (rounded up to a bucket) in microseconds.

        The wider the window, the fewer queries and keys are left to it; 0 where the head has none.
        """
        if not pattern.has_far_field:
            return 0.0
        length = bucket(length)
        sizes = (site.q_heads, site.kv_heads, site.head_dim, length)
        if sizes not in self._known:
            key = {"backend": self._backend.name, "dtype": self._dtype, "sizes": list(sizes)}
            kept = self._memory.recall("pipeline.far_times", key)
            if kept is None:
                kept = {"latency_us": self._time_us(site, length)}
                self._memory.keep("pipeline.far_times", key, kept)
            self._known[sizes] = float(kept["latency_us"])
        return self._known[sizes] * max(0.0, 1.0 - pattern.params()[0] / length)

    def _time_us(self, site: Site, length: int) -> float:
        device, dtype = self._backend.torch_device(), getattr(torch, self._dtype)
        schedule = self._backend.safe_schedule(self._dtype, site.head_dim)
        built = self._backend.build(schedule, self._dtype, site.head_dim, group=site.group, causal=True)
        q, k, v = (
            torch.randn(1, length, heads, site.head_dim, device=device).to(dtype).transpose(1, 2)
            for heads in (site.q_heads, site.kv_heads, site.kv_heads)
        )
        params = torch.tensor([_HEAD.params()] * site.q_heads, dtype=torch.int32, device=device)
        maps = torch.randn(site.q_heads, 2, FEATURES, site.head_dim + 1, device=device)
        far = FarFields(maps, torch.ones(site.q_heads, dtype=torch.bool, device=device))
        near = partial(self._backend.load(built), q, k, v, None, params, 0, site.scale, True)
        with torch.inference_mode():
            timed = time_calls([partial(near, far=far), near], _ROUNDS, graph_clock(device.type)).times_us
        with_far, without = map(median, timed)
        return max(0.0, with_far - without) / site.q_heads
