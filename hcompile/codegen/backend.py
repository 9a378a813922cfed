"""What a code generator is to the rest of the house."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from hcompile.operator import Kernel
    from hcompile.schedules.schedule import Schedule
    from hcompile.schedules.space import Space
    from hcompile.tuning_db.key import Device, RecordKey
    from hcompile.workload import Workload


class Backend(ABC):
    """Turns schedules of its template into kernels of the attention operator.

    Attributes:
        name: as in the registry.
        template: the name of the template whose schedules it builds.
        device_type: torch's name of the kind of device that its kernels run on.
        compiles_ahead: it compiles without the device, in a second or two, and tells what the code takes: a search
            has all its candidates compiled before it measures the first.
    """

    name: str
    template: str
    device_type: str = "cpu"
    compiles_ahead: bool = False

    def torch_device(self) -> torch.device:
        """Return the device that kernels run on. Raises: EnvironmentFault when it is not there."""
        import torch

        if self.device_type == "cpu":
            return torch.device("cpu")
        self.device()
        return torch.device(self.device_type, torch.cuda.current_device())

    @property
    def members(self) -> tuple[Backend, ...]:
        """The code generators that compete for a workload: this one, unless it stands for several."""
        return (self,)

    @abstractmethod
    def supports(self, dtype: str, head_dim: int) -> bool:
        """Return whether there is a kernel for heads of this size and dtype."""

    def routes(self, dtype: str, head_dim: int) -> bool:
        """Return whether its kernels serve routed heads (`hcompile.patterns.Routed`) of this size and dtype here."""
        return False

    def serves(self, workload: Workload) -> bool:
        """Return whether there is a kernel for calls of this workload on this machine."""
        return self.supports(workload.dtype, workload.head_dim) and self.routes_all(workload)

    def routes_all(self, workload: Workload) -> bool:
        """Return whether no head of a workload is routed, or its kernels serve those that are."""
        return not is_routed(workload) or self.routes(workload.dtype, workload.head_dim)

    @abstractmethod
    def space(self, workload: Workload) -> Space:
        """Return the schedules of a workload on this machine. Raises: KernelError when it has none."""

    @abstractmethod
    def safe_schedule(self, dtype: str, head_dim: int) -> Schedule:
        """Return a schedule that is right and decent on this machine untuned. Raises: KernelError."""

    @abstractmethod
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
        """Return the compiled kernel's file in `folder` (default: the cache), built now unless it is there.

        Args:
            group: query heads of a KV head, and whether later keys are hidden, in the calls to come; a kernel is right
                for others too.

        Raises:
            KernelError: the schedule is not legal here, does not compile, or takes more than the device has.
            EnvironmentFault: a compiler is missing, or the folder cannot be written.
        """

    @abstractmethod
    def load(self, path: Path) -> Kernel:
        """Return the callable of a built file. Raises: KernelError when the file is no kernel of this backend."""

    def facts(self, path: Path) -> Mapping[str, float]:
        """Return what the compiler said of a built file, such as registers of a thread; the same names for all."""
        return {}

    def warm_up(self) -> None:  # noqa: B027  few have something to do
        """Do, once in a process that measures, what would take up the time limit of its first candidate."""

    @abstractmethod
    def kernel_source_hash(self) -> str:
        """Return the sha256 of all source that decides what a schedule compiles to."""

    @abstractmethod
    def device(self) -> Device:
        """Return the facts of this machine that kernels' times depend on."""

    @abstractmethod
    def record_key(self, workload: Workload) -> RecordKey:
        """Return the key that measurements of a workload are kept under."""


def is_routed(workload: Workload) -> bool:
    """Return whether some head of a workload is routed."""
    return any(pattern.reads_lists for pattern, _ in workload.heads)


def member_of(backend: Backend, template: str) -> Backend | None:
    """Return the member that builds schedules of a template, None where there is none."""
    return next((member for member in backend.members if member.template == template), None)
