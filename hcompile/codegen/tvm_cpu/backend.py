"""The backend object: the template's space on this machine, building, loading, and the key of measurements."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from pathlib import Path

from hcompile.codegen.backend import Backend
from hcompile.codegen.tvm_cpu.bind import load_kernel
from hcompile.codegen.tvm_cpu.build import build_kernel, source_hash
from hcompile.codegen.tvm_cpu.machine import this_cpu, this_device
from hcompile.errors import KernelError
from hcompile.operator import Kernel
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.space import Space
from hcompile.schedules.template import Problem, get_template
from hcompile.schedules.templates.tvm_cpu_attention import NAME
from hcompile.tuning_db.key import Device, RecordKey
from hcompile.workload import Workload


class TvmCpu(Backend):
    """Compiles with TVM for the CPU at hand."""

    name = "tvm_cpu"
    template = NAME

    def supports(self, dtype: str, head_dim: int) -> bool:
        return get_template(self.template).supports(dtype, head_dim)

    def routes(self, dtype: str, head_dim: int) -> bool:
        return True

    def space(self, workload: Workload) -> Space:
        return _space(workload.dtype, workload.head_dim)

    def safe_schedule(self, dtype: str, head_dim: int) -> Schedule:
        return _space(dtype, head_dim).default()

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
        if schedule not in _space(dtype, head_dim):
            raise KernelError(
                f"schedule {schedule.text} is not legal for {dtype} heads of {head_dim} on {this_cpu().isa}: tune again"
            )
        return build_kernel(schedule, dtype, head_dim, folder)

    def load(self, path: Path) -> Kernel:
        return load_kernel(path)

    def kernel_source_hash(self) -> str:
        return source_hash()

    def device(self) -> Device:
        return this_device()

    def record_key(self, workload: Workload) -> RecordKey:
        libraries = ("apache-tvm", "torch")
        return RecordKey(
            device=this_device(),
            versions=tuple((library, version(library)) for library in libraries),
            backend=self.name,
            template=self.template,
            source_sha256=source_hash(),
            workload=workload,
        )


@cache
def _space(dtype: str, head_dim: int) -> Space:
    template, cpu = get_template(NAME), this_cpu()
    if not template.supports(dtype, head_dim):
        raise KernelError(f"no CPU kernel for {dtype} heads of {head_dim}: keep this attention as it is")
    return template.space(Problem(dtype, head_dim, cpu.vector_bits, cpu.vector_registers, cpu.dot_bfloat16))


BACKEND = TvmCpu()
