"""Compiles the GPU kernels ahead of time and prints what each takes as JSON.

A process of its own: Triton's bindings print what they leak when a process that has compiled ends.
"""

from __future__ import annotations

import json
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

from benchmarks.gpu_fault_kernels import spin, store_at
from hcompile.codegen.triton_gpu import decode, far_field, hopper_prefill, prefill, route
from hcompile.codegen.triton_gpu.ahead import Source, compile_ahead, problem_of
from hcompile.errors import KernelError
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.template import get_template
from tests.codegen.triton_gpu.cases import schedule


def hopper(
    chosen: Schedule,
    head_dim: int = 128,
    dtype: str = "bfloat16",
    masked: bool = False,
    lists: bool = False,
) -> tuple[Source, int]:
    return hopper_prefill.source(
        chosen, dtype, head_dim, group=4, causal=True, masked=masked, lists=lists
    ), 90


def portable(capability: int) -> tuple[Source, int]:
    chosen = schedule("triton_prefill", capability=capability)
    return prefill.source(chosen, "bfloat16", 128, group=4, causal=True, masked=False), capability


def split(capability: int) -> tuple[Source, int]:
    chosen = schedule("triton_decode", capability=capability)
    return decode.source(chosen, "bfloat16", 128, group=4, causal=True, masked=True, page=64), capability


def far(dtype: str, head_dim: int, capability: int) -> dict[str, tuple[Source, int]]:
    sources = far_field.sources(dtype, head_dim, group=4, masked=True)
    return {f"far {each.kernel.__name__} {dtype} {head_dim}": (each, capability) for each in sources}


def routing(dtype: str, head_dim: int, masked: bool, kv_len: int) -> dict[str, tuple[Source, int]]:
    sources = route.sources(dtype, head_dim, group=4, causal=True, masked=masked, kv_len=kv_len)
    return {f"{each.kernel.__name__} {dtype} {head_dim}": (each, 90) for each in sources}


def largest() -> Schedule:
    legal = get_template("hopper_prefill").space(problem_of("bfloat16", 128, 90)).enumerate()
    return max(legal, key=lambda each: each["stages"] * each["keys"] - each["share"])


def sources() -> dict[str, tuple[Source, int]]:
    """Return what is compiled, and for which GPU."""
    odd, _ = portable(90)
    return {
        **{f"prefill sm_{capability}": portable(capability) for capability in (80, 86, 90, 100)},
        **{f"decode sm_{capability}": split(capability) for capability in (80, 86, 90, 100)},
        "hopper": hopper(schedule("hopper_prefill")),
        "hopper heads of 64": hopper(schedule("hopper_prefill", 64), 64, "float16", masked=True),
        "hopper heads of 256": hopper(schedule("hopper_prefill", 256), 256),
        "hopper lists": hopper(schedule("hopper_prefill", 96, keys=64), 96, lists=True),
        **far("float16", 64, 86),
        **far("bfloat16", 128, 86),
        **far("bfloat16", 256, 86),
        "hopper largest": hopper(largest()),
        "hopper too large": hopper(schedule("hopper_prefill", stages=4)),
        **routing("bfloat16", 128, False, 65536),
        **routing("float16", 64, True, 262144),
        **routing("bfloat16", 256, True, 1024),
        **routing("float32", 24, True, 1024),
        "endless loop": (Source(spin, {"out_ptr": "*i32", "stop_ptr": "*i32"}, {}, 4), 90),
        "far store": (Source(store_at, {"out_ptr": "*i32", "offset_ptr": "*i64"}, {}, 4), 90),
        "odd rows": (replace(odd, constants={**odd.constants, "ROWS": 100}), 90),
    }


def answer(name: str) -> dict[str, Any]:
    """Compile the source of this name, and return what became of it."""
    warnings.filterwarnings("ignore", "TRITON_DEFAULT_FP_FUSION is unset")
    source, capability = sources()[name]
    try:
        compiled = compile_ahead(source, capability)
    except KernelError as error:
        return {"error": str(error)}
    return {
        "fits": compiled.fits(capability),
        "registers": compiled.registers,
        "stack_bytes": compiled.stack_bytes,
        "elf": compiled.cubin.startswith(b"\x7fELF"),
        "wgmma": "wgmma.mma_async" in compiled.ptx,
        "tensor copies": "cp.async.bulk.tensor" in compiled.ptx,
    }


def main() -> None:
    with ProcessPoolExecutor() as pool:
        names = list(sources())
        answers = dict(zip(names, pool.map(answer, names), strict=True))
    print(json.dumps(answers))  # noqa: T201  this is how a child answers


if __name__ == "__main__":
    main()
