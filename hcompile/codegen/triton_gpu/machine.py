"""The facts of the GPU at hand: what code is compiled for, and what measurements on it are kept under."""

from __future__ import annotations

from functools import cache

import torch

from hcompile.errors import EnvironmentFault
from hcompile.tuning_db.key import Device

OLDEST = 80
"""Compute capability: bfloat16 and asynchronous copies came with it."""


def require_gpu() -> None:
    """Raises: EnvironmentFault when torch finds no NVIDIA GPU, or one that is too old."""
    if not torch.cuda.is_available() or torch.version.cuda is None:
        raise EnvironmentFault(
            f"target cuda: torch {torch.__version__} finds no NVIDIA GPU: run where there is one, with a CUDA build"
        )

    major, minor = torch.cuda.get_device_capability()
    if 10 * major + minor < OLDEST:
        raise EnvironmentFault(
            f"target cuda: {torch.cuda.get_device_name()} is sm_{major}{minor}: kernels want sm_{OLDEST} and later"
        )


@cache
def capability() -> int:
    """Return the compute capability of the current GPU, such as 90. Raises: EnvironmentFault without a GPU."""
    require_gpu()
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


@cache
def this_gpu() -> Device:
    """Return the facts of the current GPU; its cores are multiprocessors. Raises: EnvironmentFault without a GPU."""
    require_gpu()
    facts = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Device(
        kind="cuda",
        model=facts.name,
        isa=f"sm_{facts.major}{facts.minor}",
        cores=facts.multi_processor_count,
        threads=facts.multi_processor_count * facts.max_threads_per_multi_processor,
        memory_class=f"{facts.total_memory >> 30}GiB",
    )
