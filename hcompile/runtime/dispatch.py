"""Which kernel a node runs at which length: a frozen table, bound to callables once, when a module is loaded."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hcompile.codegen.registry import get_backend
from hcompile.errors import KernelError
from hcompile.operator import Kernel, bind, chosen_by
from hcompile.passes.lower import lower
from hcompile.program import Program
from hcompile.schedules.schedule import Schedule
from hcompile.site import Site
from hcompile.values import sha256_json


@dataclass(frozen=True, slots=True)
class ScheduleTable:
    """The schedules of one node by query length.

    Attributes:
        entries: (longest length, schedule) in rising order; the last one serves every longer sequence too.
    """

    entries: tuple[tuple[int, Schedule], ...]

    def __post_init__(self) -> None:
        lengths = [length for length, _ in self.entries]
        if not lengths or lengths != sorted(set(lengths)) or lengths[0] < 1:
            raise ValueError(f"a schedule table wants rising lengths from 1, got {lengths}")

    @classmethod
    def single(cls, schedule: Schedule) -> ScheduleTable:
        return cls(((1, schedule),))

    def schedule(self, length: int) -> Schedule:
        """Return the schedule for `length` query tokens."""
        index = bisect_left(self.entries, length, key=lambda entry: entry[0])
        return self.entries[min(index, len(self.entries) - 1)][1]

    def to_json(self) -> list[Any]:
        return [{"length": length, "schedule": schedule.to_json()} for length, schedule in self.entries]

    @classmethod
    def from_json(cls, value: Any) -> ScheduleTable:
        """Raises: ValueError, KeyError or TypeError when `value` is no table."""
        return cls(tuple((entry["length"], Schedule.from_json(entry["schedule"])) for entry in value))


def bind_program(program: Program, tables: Mapping[str, ScheduleTable], backend_name: str) -> Program:
    """Return the program with every site of `tables` bound to its built kernels; the others keep the reference.

    Raises:
        KernelError: a kernel cannot be built for a site.
        EnvironmentFault: the machine lacks what building needs.
    """
    dtype = compute_dtype(program)
    bindings = {}
    for site in program.sites:
        if site.name in tables:
            bindings[site.name] = bind_table(tables[site.name], backend_name, dtype, site)
    return lower(program, bindings)


def safe_tables(program: Program, backend_name: str) -> dict[str, ScheduleTable]:
    """Return a table of the backend's safe schedule for every site that it has a kernel for."""
    backend = get_backend(backend_name)
    dtype = compute_dtype(program)
    tables = {}
    for site in program.sites:
        if backend.supports(dtype, site.head_dim):
            tables[site.name] = ScheduleTable.single(backend.safe_schedule(dtype, site.head_dim))
    return tables


def compute_dtype(program: Program) -> str:
    """Return the dtype that the program's attention computes in: that of most of its weights.

    Raises:
        KernelError: the weights are of no floating dtype.
    """
    sizes: dict[torch.dtype, int] = {}
    for tensor in program.tensors.values():
        if tensor.is_floating_point() and tensor.dim() > 1:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.numel()
    if not sizes:
        raise KernelError(
            "the model has no floating-point matrices: there is no dtype to compute attention in"
        )
    return str(max(sizes, key=lambda dtype: sizes[dtype])).removeprefix("torch.")


def bind_table(table: ScheduleTable, backend_name: str, dtype: str, site: Site) -> str:
    """Build the kernels of a table, bind them by length, and return the binding that a node names.

    Raises: as `bind_program`.
    """
    backend = get_backend(backend_name)
    content = [backend_name, backend.kernel_source_hash(), dtype, site.head_dim, table.to_json()]
    binding = sha256_json(content)[:32]
    limits = [length for length, _ in table.entries]
    built = [
        backend.build(schedule, dtype, site.head_dim, group=site.group, causal=site.causal)
        for _, schedule in table.entries
    ]
    kernels = [backend.load(path) for path in built]
    bind(binding, kernels[0] if len(kernels) == 1 else _by_length(limits, kernels))
    return binding


def _by_length(limits: list[int], kernels: list[Kernel]) -> Kernel:
    last = len(kernels) - 1
    return chosen_by(lambda q: kernels[min(bisect_left(limits, q.shape[2]), last)])
