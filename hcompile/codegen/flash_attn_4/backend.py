"""The backend of FlashAttention-4, for nodes that it can express: dense heads or one window, no sinks, no padding.

Queries may be the last of more keys. The package compiles at the first call of a kind, in the process that calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import torch

from hcompile.codegen.library import Attend, LibraryAttention
from hcompile.codegen.triton_gpu.heads import HeadOrder
from hcompile.errors import KernelError
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.templates.flash_attn_4 import NAME
from hcompile.workload import Workload

PACKAGE = "flash-attn-4"
_LIBRARIES = (PACKAGE, "nvidia-cutlass-dsl", "torch")
# The package also fails to load with RuntimeError, where its compiler is not for the driver.
_LOAD_ERRORS = (ImportError, OSError, RuntimeError)


class FlashAttention4(LibraryAttention):
    """Chooses how its public function is called."""

    name = template = NAME

    def expresses(self, workload: Workload) -> bool:
        if not installed():
            return False
        params = {pattern.params() for pattern, _ in workload.heads}
        if all(window >= workload.kv_len for window, _ in params):
            return True
        sinks = any(sinks for _, sinks in params)
        return len(params) == 1 and not sinks and workload.q_len <= workload.kv_len

    def versions(self) -> Mapping[str, str]:
        return {library: version(library) for library in _LIBRARIES}

    def warm_up(self) -> None:
        if installed():
            with suppress(*_LOAD_ERRORS):  # Its candidates fail with the reason; others need not.
                _function()

    def attend(self, schedule: Schedule) -> Attend:
        function, pack, splits = _function(), bool(schedule["pack_gqa"]), schedule["splits"]

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
            window = order.one_window(kv_len)
            if window is None:
                return None
            dense = window == kv_len
            # It counts positions from the end of the keys.
            if (causal or not dense) and not 0 <= q_offset == kv_len - q.shape[2]:
                return None
            with torch.cuda.device_of(q):
                out: torch.Tensor = function(
                    q.transpose(1, 2),
                    k.transpose(1, 2),
                    v.transpose(1, 2),
                    softmax_scale=scale,
                    causal=causal,
                    window_size=(None, None) if dense else (window - 1, 0 if causal else window - 1),
                    num_splits=splits,
                    pack_gqa=pack and q.shape[1] > k.shape[1],
                )[0]
            return out.transpose(1, 2)

        return attend


def installed() -> bool:
    """Return whether the package is there. Imports nothing."""
    try:
        version(PACKAGE)
    except PackageNotFoundError:
        return False
    return True


def _function() -> Callable[..., tuple[torch.Tensor, object]]:
    """Return the package's function. Raises: KernelError when it cannot be loaded."""
    try:
        found: Callable[..., tuple[torch.Tensor, object]] = import_module("flash_attn.cute").flash_attn_func
    except _LOAD_ERRORS as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise KernelError(
            f"{PACKAGE} cannot be loaded ({reason}): pip install 'hcompile[fa4]', or tune again"
        ) from error
    return found


BACKEND = FlashAttention4()
