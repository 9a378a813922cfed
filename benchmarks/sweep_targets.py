"""What is swept on each target: the workloads, and how long a point is timed there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hcompile.codegen.registry import TARGETS as BACKENDS
from hcompile.patterns import Dense, Local, Pattern
from hcompile.tuning.timing import Rounds
from hcompile.workload import Workload

PASSES = 3
"""How often points near the best are timed, at different times: what counts are all their times together."""


@dataclass(frozen=True, slots=True)
class SweepTarget:
    """Sweeps of one kind of device.

    Attributes:
        backend: the code generator that builds and is measured, or `package.module:attribute`.
        workloads: by the names of their sweeps, those first that are wanted first.
        rounds: of a point in one pass.
        slow_factor: points slower than the best by this factor are timed by one call: they decide nothing.
        close_factor: points slower than the best by this factor are timed in the first pass only.
        built_at_once: points that are built before the time is looked at again.
    """

    backend: str
    workloads: Callable[[], Mapping[str, Workload]]
    rounds: Rounds
    slow_factor: float
    close_factor: float
    built_at_once: int


def cpu_workloads() -> dict[str, Workload]:
    """Return the CPU's workloads: few heads where calls would be long, since tiles are shared out, not heads."""
    dense, narrow, wide = Dense(), Local(256, 64), Local(1024, 16)
    return {
        "dense-2048": _on_cpu([dense] * 4, 4, 2048),
        "dense-8192": _on_cpu([dense], 1, 8192),
        "window-256-8192": _on_cpu([narrow] * 8, 8, 8192),
        "window-1024-4096": _on_cpu([wide] * 6, 6, 4096),
        "mixed-gqa-4096": _on_cpu([dense] + [narrow] * 5, 2, 4096),
        "bf16-window-256-8192": _on_cpu([narrow] * 8, 8, 8192, dtype="bfloat16"),
    }


def gpu_workloads() -> dict[str, Workload]:
    """Return a GPU's workloads, 32 query and 8 KV heads of 128, and the same at other lengths.

    Those of other lengths are what a search on the first six may begin with; they compile nothing of their own.
    """
    dense = [Dense()] * 32
    wide, narrow = [Local(1024, 128)] * 32, [Local(512, 64)] * 32
    mixed = dense[:4] + narrow[4:]
    decoded = [Local(1024, 64)] * 32
    return {
        "cuda-dense-16384": _on_gpu(dense, 16384),
        "cuda-window-1024-16384": _on_gpu(wide, 16384),
        "cuda-window-512-16384": _on_gpu(narrow, 16384),
        "cuda-mixed-8192": _on_gpu(mixed, 8192),
        "cuda-decode-window-1024-b1-131072": _on_gpu(decoded, 131072, queries=1),
        "cuda-decode-dense-b64-8192": _on_gpu(dense, 8192, queries=1, batch=64),
        "cuda-dense-4096": _on_gpu(dense, 4096),
        "cuda-window-1024-4096": _on_gpu(wide, 4096),
        "cuda-window-512-4096": _on_gpu(narrow, 4096),
        "cuda-mixed-16384": _on_gpu(mixed, 16384),
        "cuda-decode-window-1024-b1-16384": _on_gpu(decoded, 16384, queries=1),
        "cuda-decode-dense-b64-2048": _on_gpu(dense, 2048, queries=1, batch=64),
    }


TARGETS = {
    "cpu": SweepTarget(
        BACKENDS["cpu"], cpu_workloads, Rounds(least=5, most=20, enough_s=0.08), 1.3, 1.15, 64
    ),
    # Each timed call costs some 2 ms more than itself, for cold caches; repeats are cheap next to a point's check. All
    # is compiled in one go: what waits for the last of a batch costs device time.
    "cuda": SweepTarget(
        BACKENDS["cuda"], gpu_workloads, Rounds(least=5, most=20, enough_s=0.02), 1.3, 1.25, 1000
    ),
}


def _on_cpu(heads: Sequence[Pattern], kv_heads: int, length: int, dtype: str = "float32") -> Workload:
    return Workload.of(
        heads, kv_heads=kv_heads, head_dim=64, q_len=length, kv_len=length, causal=True, dtype=dtype
    )


def _on_gpu(heads: Sequence[Pattern], length: int, queries: int | None = None, batch: int = 1) -> Workload:
    return Workload.of(
        heads,
        kv_heads=8,
        head_dim=128,
        q_len=queries or length,
        kv_len=length,
        causal=True,
        dtype="bfloat16",
        batch=batch,
    )
