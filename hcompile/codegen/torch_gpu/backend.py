"""The backend of torch's attention, for nodes that it can express: all heads dense, no padding."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

import torch

from hcompile.codegen.library import Attend, LibraryAttention
from hcompile.codegen.triton_gpu.heads import HeadOrder
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.templates.torch_sdpa import CUDNN, FLASH, NAME
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


class TorchSdpa(LibraryAttention):
    """Chooses between torch's implementations."""

    name = template = NAME

    def expresses(self, workload: Workload) -> bool:
        dense = all(pattern.params()[0] >= workload.kv_len for pattern, _ in workload.heads)
        return dense and (workload.q_len == workload.kv_len or not workload.causal) and workload.kv_len > 1

    def versions(self) -> Mapping[str, str]:
        return {"cudnn": str(torch.backends.cudnn.version()), "torch": version("torch")}

    def attend(self, schedule: Schedule) -> Attend:
        library = {FLASH: _flash, CUDNN: _cudnn}[schedule["library"]]

        def attend(
            q: torch.Tensor,
            k: torch.Tensor,
            v: torch.Tensor,
            order: HeadOrder,
            q_offset: int,
            scale: float,
            causal: bool,
        ) -> torch.Tensor | None:
            kv_len = k.shape[2]
            aligned = (not causal or (q.shape[2] == kv_len and not q_offset)) and kv_len > 1
            if not aligned or order.long_heads(kv_len) < q.shape[1]:
                return None
            out = library(q, k, v, causal, scale)
            # The operator's memory is [B, S, H, D], which both libraries give for queries of that layout.
            return out.transpose(1, 2).contiguous().transpose(1, 2)

        return attend


BACKEND = TorchSdpa()
