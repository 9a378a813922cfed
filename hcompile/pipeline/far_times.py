"""What a linear far field takes beside the near field of its head: measured for each shape and length, and kept, so
that the same job finds the same plan again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median

import torch

from hcompile.codegen.backend import Backend
from hcompile.far_field import FarFields
from hcompile.patterns import Linear, Pattern
from hcompile.patterns.linear import FEATURES
from hcompile.policy.memory import Memory
from hcompile.schedules.schedule import Schedule
from hcompile.site import Site
from hcompile.tuning.latency import node_workload
from hcompile.tuning.timing import Rounds, kernel_clock, time_calls
from hcompile.workload import Workload, bucket

_ROUNDS = Rounds(least=5, most=20, enough_s=0.5)
_NARROW, _WIDE_SHARE, _SINKS = 32, 4, 16
"""The windows whose far fields are timed, in tokens and as a part of the length, and the sinks beside them. With a wide
one near keys take so much longer than what is far that the difference is rough, and matters little."""


class FarTimes:
    """Times on random inputs: of a node whose heads all have a far field, less what it takes without."""

    def __init__(
        self, backend: Backend, dtype: str, memory: Memory, schedule_of: Callable[[Site, Workload], Schedule]
    ) -> None:
        """`schedule_of`: the schedule that a node has without far fields."""
        self._backend = backend
        self._dtype = dtype
        self._memory = memory
        self._schedule_of = schedule_of
        self._known: dict[tuple[int, ...], tuple[float, float]] = {}

    def head_us(self, site: Site, pattern: Pattern, length: int) -> float:
        """Return what the far field of one head takes at `length` tokens (rounded up to a bucket) in microseconds; 0
        where the head has none.

        A kernel may read what is far of such a head apart, or all of it by other tiles: with a wider window it takes
        less, or more; from the widest window that was timed on, as much as with that.
        """
        if not pattern.has_far_field:
            return 0.0
        length = bucket(length)
        narrow, wide = _NARROW, max(2 * _NARROW, length // _WIDE_SHARE)
        sizes = (site.q_heads, site.kv_heads, site.head_dim, length)
        if sizes not in self._known:
            self._known[sizes] = self._kept_us(site, narrow, length), self._kept_us(site, wide, length)
        narrow_us, wide_us = self._known[sizes]
        share = (min(pattern.at(length).params()[0], wide) - narrow) / (wide - narrow)
        return max(0.0, narrow_us + share * (wide_us - narrow_us))

    def _kept_us(self, site: Site, window: int, length: int) -> float:
        heads = [Linear(window, _SINKS)] * site.q_heads
        schedule = self._schedule_of(site, node_workload(heads, site, length, dtype=self._dtype))
        key = {
            "backend": self._backend.name,
            "dtype": self._dtype,
            "sizes": [site.q_heads, site.kv_heads, site.head_dim, length],
            "head": heads[0].to_json(),
            "schedule": schedule.to_json(),
        }
        kept = self._memory.recall("pipeline.far_times", key)
        if kept is None:
            kept = {"latency_us": self._time_us(site, heads[0], length, schedule)}
            self._memory.keep("pipeline.far_times", key, kept)
        return float(kept["latency_us"])

    def _time_us(self, site: Site, head: Linear, length: int, schedule: Schedule) -> float:
        backend, dtype = self._backend, getattr(torch, self._dtype)
        device = backend.torch_device()
        built = backend.build(schedule, self._dtype, site.head_dim, group=site.group, causal=True)
        q, k, v = (
            torch.randn(1, length, count, site.head_dim, device=device).to(dtype).transpose(1, 2)
            for count in (site.q_heads, site.kv_heads, site.kv_heads)
        )
        params = torch.tensor([head.params()] * site.q_heads, dtype=torch.int32, device=device)
        maps = torch.randn(site.q_heads, 2, FEATURES, site.head_dim + 1, device=device)
        far = FarFields(maps, torch.ones(site.q_heads, dtype=torch.bool, device=device))
        near = partial(backend.load(built), q, k, v, None, params, 0, site.scale, True)
        with torch.inference_mode():
            timed = time_calls([partial(near, far=far), near], _ROUNDS, kernel_clock(device.type)).times_us
        extra_us = [both - own for both, own in zip(*timed, strict=True)]
        return float(median(extra_us)) / site.q_heads
