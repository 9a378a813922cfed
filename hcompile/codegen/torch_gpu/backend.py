"""The backend of the library's attention, for nodes that it can express: all heads dense, no padding.

What a node's call holds beyond that (padding, queries that are not the last of the keys, another plan) our own kernel
computes, so that a bound node is right whatever it is called with.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from hcompile.codegen.backend import Backend
from hcompile.codegen.built import read_built, write_built
from hcompile.codegen.triton_gpu.heads import HeadOrders
from hcompile.codegen.triton_gpu.machine import capability, this_gpu
from hcompile.errors import KernelError
from hcompile.operator import Kernel
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.space import Space
from hcompile.schedules.template import get_template
from hcompile.schedules.templates.torch_sdpa import CUDNN, FLASH, NAME
from hcompile.tuning_db.key import Device, RecordKey
from hcompile.values import sha256_text
from hcompile.workload import Workload


# What `F.scaled_dot_product_attention` would call: a choice by `sdpa_kernel` is one of the whole process, which two
# threads take from each other. Both read fewer KV heads than query heads as they are.
def _flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
    out: torch.Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
        q, k, v, 0.0, causal, False, scale=scale
    )[0]
    return out


def _cudnn(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
    out: torch.Tensor = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, False, 0.0, causal, False, scale=scale
    )[0]
    return out


class TorchSdpa(Backend):
    """Chooses between torch's implementations; there is nothing to compile."""

    name = "torch_sdpa"
    template = NAME
    device_type = "cuda"

    def supports(self, dtype: str, head_dim: int) -> bool:
        return get_template(NAME).supports(dtype, head_dim)

    def serves(self, workload: Workload) -> bool:
        dense = all(pattern.params()[0] >= workload.kv_len for pattern, _ in workload.heads)
        aligned = (workload.q_len == workload.kv_len or not workload.causal) and workload.kv_len > 1
        return dense and aligned and self.supports(workload.dtype, workload.head_dim) and capability() >= 80

    def space(self, workload: Workload) -> Space:
        return _space(workload.dtype, workload.head_dim, capability())

    def safe_schedule(self, dtype: str, head_dim: int) -> Schedule:
        raise KernelError("torch_sdpa computes dense nodes only: it is safe for none")

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
        if schedule not in _space(dtype, head_dim, capability()):
            raise KernelError(
                f"schedule {schedule.text} is not legal for {dtype} heads of {head_dim}: tune again"
            )
        content = {"schedule": schedule.to_json(), "dtype": dtype, "head_dim": head_dim}
        return write_built(NAME, content, folder, dict)

    def load(self, path: Path) -> Kernel:
        return bind(Schedule.from_json(read_built(path)["schedule"]))

    def kernel_source_hash(self) -> str:
        return sha256_text(Path(__file__).read_text())

    def device(self) -> Device:
        return this_gpu()

    def record_key(self, workload: Workload) -> RecordKey:
        return RecordKey(
            device=this_gpu(),
            versions=(("cudnn", str(torch.backends.cudnn.version())), ("torch", version("torch"))),
            backend=self.name,
            template=NAME,
            source_sha256=self.kernel_source_hash(),
            workload=workload,
        )


def bind(schedule: Schedule) -> Kernel:
    """Return the kernel of a schedule."""
    library = {FLASH: _flash, CUDNN: _cudnn}[schedule["library"]]
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
        block_ptr: torch.Tensor | None = None,
        block_index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        heads, kv_len = q.shape[1], k.shape[2]
        aligned = (not causal or (q.shape[2] == kv_len and not q_offset)) and kv_len > 1
        if key_mask is not None or not aligned or orders.of(head_params).long_heads(kv_len) < heads:
            ours = _ours(str(q.dtype).removeprefix("torch."), q.shape[3], heads // k.shape[1], causal)
            return ours(q, k, v, key_mask, head_params, q_offset, scale, causal, block_ptr, block_index)
        out = library(q, k, v, causal, scale)
        # The operator's memory is [B, S, H, D], which both libraries give for queries of that layout.
        return out.transpose(1, 2).contiguous().transpose(1, 2)

    return kernel


@cache
def _space(dtype: str, head_dim: int, at: int) -> Space:
    from hcompile.codegen.triton_gpu.ahead import problem_of

    return get_template(NAME).space(problem_of(dtype, head_dim, at))


@cache
def _ours(dtype: str, head_dim: int, group: int, causal: bool) -> Kernel:
    from hcompile.codegen.cuda import BACKEND as TARGET

    schedule = TARGET.safe_schedule(dtype, head_dim)
    return TARGET.load(TARGET.build(schedule, dtype, head_dim, group=group, causal=causal))


BACKEND = TorchSdpa()
