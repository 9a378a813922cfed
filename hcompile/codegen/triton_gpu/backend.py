"""The backends of the Triton templates: one for each, of which a target takes those that can serve a workload.

A built file holds no machine code: Triton keeps that in its own cache, from which the first call takes it. The file
says what the code takes of the device, and that it was found to fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hcompile.codegen.backend import Backend, is_routed
from hcompile.codegen.built import read_built, write_built
from hcompile.codegen.triton_gpu.machine import capability, this_gpu
from hcompile.errors import KernelError
from hcompile.operator import Kernel
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.space import Space
from hcompile.schedules.template import GpuProblem, get_template
from hcompile.schedules.templates import hopper_prefill, triton_decode, triton_prefill
from hcompile.tuning_db.key import Device, RecordKey
from hcompile.values import sha256_json
from hcompile.workload import Workload

if TYPE_CHECKING:
    from hcompile.codegen.triton_gpu.ahead import Compiled

HEAVY_STACK_BYTES = 512
"""Of a thread: a kernel that keeps so much outside its registers is not measured."""
_HERE = Path(__file__).parent


class TritonGpu(Backend):
    """Compiles one template with Triton for the NVIDIA GPU at hand."""

    device_type = "cuda"
    compiles_ahead = True

    def __init__(
        self,
        template: str,
        launcher: str,
        fits: Callable[[Workload, int], bool],
        list_space: Callable[[GpuProblem], Space] | None = None,
    ) -> None:
        """
        Args:
            launcher: the module of this package that launches its kernels.
            fits: whether a workload is of its kind on a GPU of a compute capability.
            list_space: the schedules of workloads with routed heads, which its kernels serve then.
        """
        self.name = self.template = template
        self._module = f"hcompile.codegen.triton_gpu.{launcher}"
        self._fits = fits
        self._list_space = list_space

    def supports(self, dtype: str, head_dim: int) -> bool:
        return get_template(self.template).supports(dtype, head_dim)

    def serves(self, workload: Workload) -> bool:
        return super().serves(workload) and self._fits(workload, capability())

    def routes(self, dtype: str, head_dim: int) -> bool:
        return self._list_space is not None and self.supports(dtype, head_dim) and capability() // 10 == 9

    def space(self, workload: Workload) -> Space:
        if is_routed(workload):
            if self._list_space is None:
                raise KernelError(f"{self.name} serves no routed heads: use hopper_prefill")
            return _list_space(self._list_space, workload.dtype, workload.head_dim, capability())
        return _space(self.template, workload.dtype, workload.head_dim, capability())

    def safe_schedule(self, dtype: str, head_dim: int) -> Schedule:
        return _space(self.template, dtype, head_dim, capability()).default()

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
                f"schedule {schedule.text} is not legal for {dtype} heads of {head_dim} on sm_{capability()}: tune"
            )
        return write_built(
            self.template,
            {
                "source": source_hash(),
                "triton": version("triton"),
                "capability": capability(),
                "schedule": schedule.to_json(),
                "calls": {"dtype": dtype, "head_dim": head_dim, "group": group, "causal": causal},
            },
            folder,
            lambda: self._compile(schedule, dtype, head_dim, group, causal),
        )

    def _compile(
        self, schedule: Schedule, dtype: str, head_dim: int, group: int, causal: bool
    ) -> dict[str, float]:
        from hcompile.codegen.triton_gpu.ahead import compile_ahead, shared_bytes

        module = import_module(self._module)
        facts: dict[str, float] = {}
        for masked in (False, True):  # Calls with padding have code of their own.
            source = module.source(schedule, dtype, head_dim, group=group, causal=causal, masked=masked)
            compiled = compile_ahead(source, capability())
            if not compiled.fits(capability()):
                raise KernelError(
                    f"{schedule.text} takes {compiled.shared_bytes} bytes of shared memory, there are "
                    f"{shared_bytes(capability())}: choose another schedule"
                )
            if compiled.stack_bytes > HEAVY_STACK_BYTES:
                raise KernelError(
                    f"{schedule.text} spills {compiled.stack_bytes} bytes a thread: choose another schedule"
                )
            if not masked:
                facts = _facts(compiled, source.warps)
        return facts

    def load(self, path: Path) -> Kernel:
        built = read_built(path)
        module: Any = import_module(self._module)
        kernel: Kernel = module.bind(Schedule.from_json(built["schedule"]))
        return kernel

    def facts(self, path: Path) -> Mapping[str, float]:
        facts: dict[str, float] = read_built(path)["facts"]
        return facts

    def warm_up(self) -> None:
        import_module("triton")

    def kernel_source_hash(self) -> str:
        return source_hash()

    def device(self) -> Device:
        return this_gpu()

    def record_key(self, workload: Workload) -> RecordKey:
        return RecordKey(
            device=this_gpu(),
            versions=tuple((library, version(library)) for library in ("torch", "triton")),
            backend=self.name,
            template=self.template,
            source_sha256=source_hash(),
            workload=workload,
        )


def _facts(compiled: Compiled, warps: int) -> dict[str, float]:
    """Return what the code takes, and how many of its blocks registers and shared memory leave room for."""
    from hcompile.codegen.triton_gpu.ahead import MULTIPROCESSOR_REGISTERS, shared_bytes

    threads = 32 * warps
    by_registers = MULTIPROCESSOR_REGISTERS // (threads * max(1, compiled.registers))
    by_shared = shared_bytes(capability()) // max(1, compiled.shared_bytes)
    return {
        "registers": compiled.registers,
        "stack_bytes": compiled.stack_bytes,
        "shared_bytes": compiled.shared_bytes,
        "resident_warps": max(1, min(by_registers, by_shared)) * warps,
    }


@cache
def source_hash() -> str:
    """Return the sha256 of this package's sources."""
    return sha256_json([path.read_text() for path in sorted(_HERE.rglob("*.py"))])


@cache
def _space(template: str, dtype: str, head_dim: int, at: int) -> Space:
    from hcompile.codegen.triton_gpu.ahead import problem_of

    found = get_template(template)
    if not found.supports(dtype, head_dim):
        raise KernelError(
            f"{template}: no kernel for {dtype} heads of {head_dim}: keep this attention as it is"
        )
    return found.space(problem_of(dtype, head_dim, at))


@cache
def _list_space(make: Callable[[GpuProblem], Space], dtype: str, head_dim: int, at: int) -> Space:
    from hcompile.codegen.triton_gpu.ahead import problem_of

    return make(problem_of(dtype, head_dim, at))


def _is_decode(workload: Workload, _: int = 0) -> bool:
    rows = workload.q_len * (workload.q_heads // workload.kv_heads)
    return rows <= triton_decode.MOST_ROWS and workload.q_len < workload.kv_len


def _for_hopper(workload: Workload, at: int) -> bool:
    return at // 10 == 9 and not _is_decode(workload)


def _for_others(workload: Workload, at: int) -> bool:
    return at // 10 != 9 and not _is_decode(workload)


HOPPER_PREFILL = TritonGpu(hopper_prefill.NAME, "hopper_prefill", _for_hopper, hopper_prefill.list_space)
TRITON_PREFILL = TritonGpu(triton_prefill.NAME, "prefill", _for_others)
TRITON_DECODE = TritonGpu(triton_decode.NAME, "decode", _is_decode)
