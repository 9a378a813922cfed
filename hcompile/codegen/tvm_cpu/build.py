"""From a schedule to a shared library: TVM generates the tile function, the C compiler adds the launcher.

The library needs neither TVM nor a tensor library at run time. It is kept in the cache under a hash of everything that
decides its content, so that with a warm cache TVM is not even imported.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import threading
from functools import cache
from importlib.metadata import version
from pathlib import Path

from hcompile.codegen.tvm_cpu.machine import this_cpu
from hcompile.errors import EnvironmentFault, KernelError
from hcompile.locked_folder import locked_folder
from hcompile.patterns.blocks import EVERY_KEY, LIST_BLOCK
from hcompile.patterns.linear import FEATURES
from hcompile.schedules.schedule import Schedule
from hcompile.tuning_db.location import cache_dir
from hcompile.values import sha256_json

_HERE = Path(__file__).parent
_LAUNCHER = _HERE / "launcher.c"
_ROUTE = _HERE / "route.c"
_FAR_FIELD = _HERE / "far_field.c"
_VECTORS = _HERE / "vectors.h"
_GENERATORS = ("prim_func.py", "register_tile.py", "vector_ops.py", "build.py")
_SOURCES = (_LAUNCHER, _ROUTE, _FAR_FIELD, _VECTORS, *(_HERE / name for name in _GENERATORS))
# TVM parses Python, and CPython 3.11 counts the depth of all threads' parsers together ("recursion depth mismatch").
_one_parser = threading.Lock()


@cache
def source_hash() -> str:
    """Return the sha256 of the sources of the generated code."""
    return sha256_json([path.read_text() for path in _SOURCES])


def build_kernel(schedule: Schedule, dtype: str, head_dim: int, folder: Path | None = None) -> Path:
    """Return the library of a legal schedule in `folder` (default: the cache), built now unless it is there.

    Raises:
        KernelError: TVM or the C compiler refuses the code.
        EnvironmentFault: there is no C compiler, or the folder cannot be written.
    """
    content = [source_hash(), schedule.to_json(), dtype, head_dim, version("apache-tvm"), this_cpu().digest]
    folder = folder or cache_dir() / "kernels"
    path = folder / f"{sha256_json(content)[:32]}.so"
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked_folder(".build-", folder) as work:
            built = work / path.name
            with _one_parser:
                _compile(schedule, dtype, head_dim, built)
            # Another process may build the same kernel: whoever is last replaces equal content.
            os.replace(built, path)
    except OSError as error:
        raise EnvironmentFault(
            f"{folder}: a kernel cannot be written ({error}); make it writable or set HCOMPILE_CACHE_DIR"
        ) from error
    return path


def _compile(schedule: Schedule, dtype: str, head_dim: int, target: Path) -> None:
    import tvm

    from hcompile.codegen.tvm_cpu.prim_func import tile_function

    compiler = _c_compiler()
    tile = tile_function(schedule, head_dim, dtype)
    sizes = {
        **tile.defines,
        "HC_LIST_BLOCK": LIST_BLOCK,
        "HC_EVERY_KEY": EVERY_KEY,
        "HC_FEATURES": FEATURES,
    }
    defines = [f"-D{name}={value}" for name, value in sizes.items()]

    def link(output: str, objects: list[str], **_: object) -> None:
        command = [
            *compiler,
            "-std=c11",
            "-O3",
            "-march=native",
            "-shared",
            "-fPIC",
            "-fvisibility=hidden",
            *defines,
        ]
        result = subprocess.run(
            [*command, str(_LAUNCHER), str(_ROUTE), str(_FAR_FIELD), *objects, "-o", output, "-lm"],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise KernelError(
                f"{compiler[0]} refuses the launcher ({result.stderr.strip()[:200]!r}): is it a C11 compiler?"
            )

    try:
        mcpu = tvm.target.codegen.llvm_get_system_cpu()
        tvm.compile(tile.function, target={"kind": "llvm", "mcpu": mcpu}).export_library(
            str(target), fcompile=link
        )
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise KernelError(
            f"TVM does not compile schedule {schedule.text} ({reason}): choose another one"
        ) from error


def _c_compiler() -> list[str]:
    """Return the command that runs the C compiler: what CC says, options included, or the first known one."""
    chosen = shlex.split(os.environ.get("CC", ""))
    for command in [chosen] if chosen else [["cc"], ["gcc"], ["clang"]]:
        found = shutil.which(command[0])
        if found:
            return [found, *command[1:]]
    wanted = f"CC names {chosen[0]}" if chosen else "cc, gcc or clang"
    raise EnvironmentFault(
        f"no C compiler ({wanted}) on the PATH: install one or set CC, kernels are linked with it"
    )
