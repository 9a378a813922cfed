"""What backends of a library's own attention share: nothing is compiled ahead, and our kernel stands behind them.

What a node's call holds beyond what the library can express (padding, queries that are not the last of the keys,
another plan) our own kernel computes, so that a bound node is right whatever it is called with.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Protocol

import torch

from hcompile.codegen.backend import Backend
from hcompile.codegen.built import read_built, write_built
from hcompile.codegen.triton_gpu.heads import HeadOrder, HeadOrders
from hcompile.codegen.triton_gpu.machine import capability, this_gpu
from hcompile.errors import KernelError
from hcompile.far_field import FarFields
from hcompile.operator import Kernel
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.space import Space
from hcompile.schedules.template import get_template
from hcompile.tuning_db.key import Device, RecordKey
from hcompile.values import sha256_json
from hcompile.workload import Workload


class Attend(Protocol):
    """A library's attention, for calls without padding: tensors as the operator has them, and the heads' order.

    Returns None for a call that the library cannot express, and else `[B, Hq, Sq, D]` that lies as `[B, Sq, Hq, D]`.
    """

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        order: HeadOrder,
        q_offset: int,
        scale: float,
        causal: bool,
    ) -> torch.Tensor | None: ...


class LibraryAttention(Backend):
    """Chooses how a library is called."""

    device_type = "cuda"

    @abstractmethod
    def expresses(self, workload: Workload) -> bool:
        """Return whether the library is installed and can compute calls of a workload."""

    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """Return the versions, by library, that a call's time depends on."""

    @abstractmethod
    def attend(self, schedule: Schedule) -> Attend:
        """Return what computes a schedule. Raises: KernelError when the library cannot be loaded."""

    def supports(self, dtype: str, head_dim: int) -> bool:
        return get_template(self.template).supports(dtype, head_dim)

    def serves(self, workload: Workload) -> bool:
        if not (super().serves(workload) and self.expresses(workload)):
            return False
        try:
            self.space(workload)
        except KernelError:  # On another GPU.
            return False
        return True

    def space(self, workload: Workload) -> Space:
        return _space(self.template, workload.dtype, workload.head_dim, capability())

    def safe_schedule(self, dtype: str, head_dim: int) -> Schedule:
        raise KernelError(f"{self.name} computes some nodes only: it is safe for none")

    def build(
        self,
        schedule: Schedule,
        dtype: str,
        head_dim: int,
        folder: Path | None = None,
        *,
        group: int = 1,
        causal: bool = True,
    ) -> Path:
        if schedule not in _space(self.template, dtype, head_dim, capability()):
            raise KernelError(
                f"schedule {schedule.text} is not legal for {dtype} heads of {head_dim}: tune again"
            )
        content = {"schedule": schedule.to_json(), "dtype": dtype, "head_dim": head_dim}
        return write_built(self.template, content, folder, dict)

    def load(self, path: Path) -> Kernel:
        return with_ours_behind(self.attend(Schedule.from_json(read_built(path)["schedule"])))

    def kernel_source_hash(self) -> str:
        return sha256_json([Path(file).read_text() for file in (__file__, inspect.getfile(type(self)))])

    def device(self) -> Device:
        return this_gpu()

    def record_key(self, workload: Workload) -> RecordKey:
        return RecordKey(
            device=this_gpu(),
            versions=tuple(sorted(self.versions().items())),
            backend=self.name,
            template=self.template,
            source_sha256=self.kernel_source_hash(),
            workload=workload,
        )


def with_ours_behind(attend: Attend) -> Kernel:
    """Return the kernel that asks the library, and ours for what it cannot express."""
    orders = HeadOrders()

    def kernel(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        key_mask: torch.Tensor | None,
        head_params: torch.Tensor,
        q_offset: int,
        scale: float,
        causal: bool,
        block_count: torch.Tensor | None = None,
        block_index: torch.Tensor | None = None,
        far: FarFields | None = None,
    ) -> torch.Tensor:
        if key_mask is None and far is None:
            out = attend(q, k, v, orders.of(head_params), q_offset, scale, causal)
            if out is not None:
                return out
        group = q.shape[1] // k.shape[1]
        ours = _ours(str(q.dtype).removeprefix("torch."), q.shape[3], group, causal)
        lists = block_count, block_index
        return ours(q, k, v, key_mask, head_params, q_offset, scale, causal, *lists, far)

    return kernel


@cache
def _space(template: str, dtype: str, head_dim: int, at: int) -> Space:
    from hcompile.codegen.triton_gpu.ahead import problem_of

    return get_template(template).space(problem_of(dtype, head_dim, at))


@cache
def _ours(dtype: str, head_dim: int, group: int, causal: bool) -> Kernel:
    from hcompile.codegen.cuda import BACKEND as TARGET

    schedule = TARGET.safe_schedule(dtype, head_dim)
    return TARGET.load(TARGET.build(schedule, dtype, head_dim, group=group, causal=causal))
