"""What a measuring process can do: build a candidate, check it, time candidates against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hcompile.codegen import get_backend
from hcompile.operator import Kernel
from hcompile.patterns import Dense
from hcompile.reference import attention_reference
from hcompile.schedules import Schedule
from hcompile.tuning.check import check, head_params
from hcompile.tuning.timing import Rounds, kernel_clock, time_calls
from hcompile.tuning_db.record import Status
from hcompile.workload import Workload

_WARM_UP = Workload.of([Dense()], kv_heads=1, head_dim=16, q_len=16, kv_len=16, causal=True, dtype="float32")

Call = Callable[[], torch.Tensor]


class Bench:
    """The operations, for one backend. Kernels and the last workload's inputs are kept between calls.

    Attributes:
        device: torch's name of the kind of device that kernels run on.
    """

    def __init__(self, backend: str, threads: int, measures: bool = True) -> None:
        """`measures`: it will check and time candidates, not only build them."""
        torch.set_num_threads(threads)
        self._backend = get_backend(backend)
        self.device = self._backend.device_type
        self._inputs: tuple[Workload, tuple[torch.Tensor, ...]] | None = None
        if measures:
            # The first calls into torch take seconds on a busy machine: not at the expense of a candidate's time limit.
            check(attention_reference, _WARM_UP, 0, self.device)
            self._backend.warm_up()

    def operations(self) -> dict[str, Callable[..., dict[str, Any]]]:
        """Return the operations by name; each takes and returns JSON values."""
        return {"build": self.build, "check": self.check, "time": self.time}

    def build(self, schedule: dict[str, Any], folder: str, **calls: Any) -> dict[str, Any]:
        """Generate and compile the code of a schedule into a file under `folder`."""
        path = self._backend.build(Schedule.from_json(schedule), folder=Path(folder), **calls)
        return {"artifact": str(path), "facts": dict(self._backend.facts(path))}

    def check(self, artifact: str, workload: dict[str, Any], seed: int) -> dict[str, Any]:
        """Compare a built candidate with the reference."""
        verdict = check(self._backend.load(Path(artifact)), Workload.from_json(workload), seed, self.device)
        values: dict[str, Any] = {"max_err": verdict.max_err, "tolerance": verdict.tolerance}
        if not verdict.right:
            message = f"error {verdict.max_err:g} is above the tolerance of {verdict.tolerance:g}"
            return {"failure": Status.WRONG, "message": message, **values}
        return values

    def time(
        self, artifacts: Sequence[str], workload: dict[str, Any], rounds: dict[str, Any]
    ) -> dict[str, Any]:
        """Time built candidates at the workload's full size, in turn."""
        calls = [
            self._call(self._backend.load(Path(path)), Workload.from_json(workload)) for path in artifacts
        ]
        timing = time_calls(calls, Rounds(**rounds), kernel_clock(self.device))
        return {"times_us": timing.times_us, "noisy": timing.noisy}

    def _call(self, kernel: Kernel, workload: Workload) -> Call:
        if self._inputs is None or self._inputs[0] != workload:
            self._inputs = None  # Before the next ones: both together might not fit.
            self._inputs = workload, _make_inputs(workload, self.device)
        q, k, v, params = self._inputs[1]
        offset, scale = workload.kv_len - workload.q_len, workload.head_dim**-0.5
        return partial(kernel, q, k, v, None, params, offset, scale, workload.causal)


def _make_inputs(workload: Workload, device: str) -> tuple[torch.Tensor, ...]:
    """Return Q, K, V of a workload's full size, laid out as `[B, S, H, D]` in memory, and the heads' parameters."""
    generator = torch.Generator(device).manual_seed(0)
    dtype = getattr(torch, workload.dtype)
    made = torch.float32 if device == "cpu" else dtype

    def normal(heads: int, length: int) -> torch.Tensor:
        shape = (workload.batch, length, heads, workload.head_dim)
        return torch.randn(shape, generator=generator, device=device, dtype=made).to(dtype).transpose(1, 2)

    q = normal(workload.q_heads, workload.q_len)
    k, v = (normal(workload.kv_heads, workload.kv_len) for _ in range(2))
    return q, k, v, head_params(workload.patterns()).to(device)
