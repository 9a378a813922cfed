"""Compiles a kernel ahead of time for a GPU that need not be there, and reads what it takes of it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hcompile.errors import KernelError
from hcompile.schedules.template import GpuProblem

_SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "bool": "u1", "int32": "i32"}
_STRIDES = ("_batch", "_head", "_row")
_LISTS_CONSTANTS = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9)
"""Whether a call's source says of constants too that nothing is assumed of them; what it says is part of its name in
Triton's cache, where the first call finds what was compiled ahead."""
MULTIPROCESSOR_REGISTERS = 65_536
"""Of 32 bits, on every capability below (CUDA C++ Programming Guide, compute capabilities)."""
SHARED_BYTES = {
    80: 166_912,
    86: 101_376,
    87: 166_912,
    89: 101_376,
    90: 232_448,
    100: 232_448,
    103: 232_448,
    120: 101_376,
    121: 101_376,
}
"""Shared memory that one block may take, by compute capability (CUDA C++ Programming Guide, compute capabilities)."""


@dataclass(frozen=True, slots=True)
class Source:
    """A kernel as calls of one kind have it.

    Attributes:
        types: Triton's type of each argument, in order; "constexpr" for constants.
        constants: the values of those.
        registers: of a thread at most, None to leave it to the compiler.
    """

    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, int | bool]
    warps: int
    stages: int = 3
    registers: int | None = None


@dataclass(frozen=True, slots=True)
class Compiled:
    """Machine code and its demands.

    Attributes:
        registers: of a thread; stack_bytes: of a thread, where registers did not suffice.
        ptx: the code before the assembler.
    """

    cubin: bytes
    ptx: str
    shared_bytes: int
    registers: int
    stack_bytes: int

    def fits(self, capability: int) -> bool:
        """Whether the device's shared memory suffices; the compiler does not ask.

        Raises:
            KernelError: the device's shared memory is not known here.
        """
        return self.shared_bytes <= shared_bytes(capability)


def shared_bytes(capability: int) -> int:
    """Return the shared memory that one block may take. Raises: KernelError when the GPU is not known."""
    if capability not in SHARED_BYTES:
        raise KernelError(f"sm_{capability} is not known: choose one of {', '.join(map(str, SHARED_BYTES))}")
    return SHARED_BYTES[capability]


def problem_of(dtype: str, head_dim: int, capability: int) -> GpuProblem:
    """Return what a template's space on a GPU is for. Raises: KernelError when the GPU is not known."""
    return GpuProblem(dtype, head_dim, capability, shared_bytes(capability))


def types_of(
    kernel: Any, constants: Mapping[str, object], pointers: Mapping[str, str], integers: Sequence[str]
) -> dict[str, str]:
    """Return the types of a kernel's arguments.

    Args:
        pointers: dtypes of what pointer arguments point to; integers: pointers to int32.
    """
    types = {}
    for name in kernel.arg_names:
        if name in constants:
            types[name] = "constexpr"
        elif name in pointers:
            types[name] = "*" + _SHORT[pointers[name]]
        elif name in integers:
            types[name] = "*i32"
        else:
            types[name] = "fp32" if name == "scale" else "i32"
    return types


def compile_ahead(source: Source, capability: int) -> Compiled:
    """Compile for an NVIDIA GPU of a compute capability, such as 90.

    Raises:
        KernelError: Triton cannot compile it.
    """
    names = list(source.types)
    # Tensors of torch start at multiples of 16 bytes, and strides of most models' tensors are multiples of 16.
    whole = [
        parameter.num
        for parameter in source.kernel.params
        if not parameter.do_not_specialize
        and (source.types[parameter.name].startswith("*") or parameter.name.endswith(_STRIDES))
    ]
    made = _source_type(source.kernel)(
        fn=source.kernel,
        signature=dict(source.types),
        constexprs={(names.index(name),): value for name, value in source.constants.items()},
        attrs={(index,): [["tt.divisibility", 16]] for index in whole}
        | _of_constants(names, source.constants),
    )
    options: dict[str, int] = {"num_warps": source.warps, "num_stages": source.stages}
    if source.registers is not None:
        options["maxnreg"] = source.registers
    try:
        compiled = triton.compile(made, target=GPUTarget("cuda", capability, 32), options=options)
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise KernelError(
            f"{source.kernel.__name__} does not compile for sm_{capability}: {lines[-1] if lines else error!r}"
        ) from error
    cubin = compiled.asm["cubin"]
    registers, stack_bytes = _usage(cubin)
    return Compiled(cubin, compiled.asm["ptx"], compiled.metadata.shared, registers, stack_bytes)


def _of_constants(names: list[str], constants: Mapping[str, object]) -> dict[tuple[int], list[object]]:
    return {(names.index(name),): [] for name in constants} if _LISTS_CONSTANTS else {}


def _source_type(kernel: Any) -> Any:
    if not getattr(kernel, "is_gluon", bool)():
        return ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource

    return GluonASTSource


def _usage(cubin: bytes) -> tuple[int, int]:
    """Return registers and stack bytes of a thread, as the disassembler that Triton brings reports them."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        command = [str(tool), "-res-usage", str(file)]
        try:
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise KernelError(
                f"{tool} cannot read what was compiled ({error}): install triton anew"
            ) from error
    fields = dict(field.split(":", 1) for field in said.split() if ":" in field and not field.endswith(":"))
    return int(fields["REG"]), int(fields["STACK"])
