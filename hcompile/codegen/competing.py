"""Several code generators as one: they compete for each workload, and each builds the schedules of its own template."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from hcompile.codegen.backend import Backend, member_of
from hcompile.errors import KernelError
from hcompile.operator import Kernel
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.space import Space
from hcompile.tuning_db.key import Device, RecordKey
from hcompile.values import sha256_json
from hcompile.workload import Workload


class Competing(Backend):
    """The first member that can be used here is the safe one, and speaks for the device."""

    def __init__(self, name: str, members: tuple[str, ...]) -> None:
        """`members`: names of code generators, the preferred ones first."""
        self.name = self.template = name
        self._names = members

    @cached_property
    def members(self) -> tuple[Backend, ...]:
        from hcompile.codegen.registry import get_backend

        return tuple(get_backend(name) for name in self._names)

    @property
    def device_type(self) -> str:  # type: ignore[override]
        return self.members[0].device_type

    def supports(self, dtype: str, head_dim: int) -> bool:
        return any(member.supports(dtype, head_dim) for member in self.members)

    def routes(self, dtype: str, head_dim: int) -> bool:
        return any(member.routes(dtype, head_dim) for member in self.members)

    def serves(self, workload: Workload) -> bool:
        return any(member.serves(workload) for member in self.members)

    def space(self, workload: Workload) -> Space:
        raise KernelError(f"{self.name} has no space of its own: ask its members")

    def safe_schedule(self, dtype: str, head_dim: int) -> Schedule:
        reason = "none supports them"
        for member in self.members:
            if member.supports(dtype, head_dim):
                try:
                    return member.safe_schedule(dtype, head_dim)
                except KernelError as error:  # Of another device.
                    reason = str(error)
        raise KernelError(f"{self.name}: no kernel for {dtype} heads of {head_dim} ({reason})")

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
        member = member_of(self, schedule.template)
        if member is None:
            raise KernelError(f"{self.name} has no template {schedule.template!r}: tune again")
        return member.build(schedule, dtype, head_dim, folder, group=group, causal=causal)

    def load(self, path: Path) -> Kernel:
        return self._of(path).load(path)

    def facts(self, path: Path) -> Mapping[str, float]:
        return self._of(path).facts(path)

    def warm_up(self) -> None:
        for member in self.members:
            member.warm_up()

    def _of(self, path: Path) -> Backend:
        """Return the member that built a file: its name begins with that of the template."""
        for member in self.members:
            if path.name.startswith(f"{member.template}-"):
                return member
        raise KernelError(f"{path}: no kernel of {self.name}; delete it, it is built again")

    def kernel_source_hash(self) -> str:
        return sha256_json([member.kernel_source_hash() for member in self.members])

    def device(self) -> Device:
        return self.members[0].device()

    def record_key(self, workload: Workload) -> RecordKey:
        raise KernelError(f"{self.name} measures nothing itself: ask its members")
