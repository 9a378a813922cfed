"""The table of code generators, and what each offers."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from hcompile.errors import UsageError

if TYPE_CHECKING:
    from hcompile.operator import Kernel
    from hcompile.schedules.schedule import Schedule
    from hcompile.schedules.space import Space
    from hcompile.tuning_db.key import Device, RecordKey
    from hcompile.workload import Workload

_BACKENDS = {"tvm_cpu": "hcompile.codegen.tvm_cpu.backend:BACKEND"}


class Backend(Protocol):
    """A code generator: turns schedules of its template into kernels of the attention operator."""

    @property
    def name(self) -> str: ...

    @property
    def template(self) -> str:
        """The name of the template whose schedules it builds."""

    def supports(self, dtype: str, head_dim: int) -> bool:
        """Return whether there is a kernel for heads of this size and dtype."""

    def space(self, workload: Workload) -> Space:
        """Return the schedules of a workload on this machine. Raises: KernelError when it has none."""

    def safe_schedule(self, dtype: str, head_dim: int) -> Schedule:
        """Return a schedule that is right and decent on this machine untuned. Raises: KernelError."""

    def build(self, schedule: Schedule, dtype: str, head_dim: int, folder: Path | None = None) -> Path:
        """Return the compiled kernel's file in `folder` (default: the cache), built now unless it is there.

        Raises:
            KernelError: the schedule is not legal here, or does not compile.
            EnvironmentFault: a compiler is missing, or the folder cannot be written.
        """

    def load(self, path: Path) -> Kernel:
        """Return the callable of a built file. Raises: KernelError when the file is no kernel of this backend."""

    def kernel_source_hash(self) -> str:
        """Return the sha256 of all source that decides what a schedule compiles to."""

    def device(self) -> Device:
        """Return the facts of this machine that kernels' times depend on."""

    def record_key(self, workload: Workload) -> RecordKey:
        """Return the key that measurements of a workload are kept under."""


@cache
def get_backend(name: str) -> Backend:
    """Return a code generator by its name, or one of another package as `package.module:attribute`.

    Raises:
        UsageError: there is none of this name.
    """
    module, _, attribute = _BACKENDS.get(name, name).partition(":")
    if not attribute:
        raise UsageError(f"kernel backend {name!r} is unknown: choose one of {', '.join(_BACKENDS)}")
    try:
        return cast(Backend, getattr(import_module(module), attribute))
    except (ImportError, AttributeError) as error:
        raise UsageError(f"kernel backend {name!r} cannot be loaded ({error}): check its name") from error
