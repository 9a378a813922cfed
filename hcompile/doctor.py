"""What a machine has of what hcompile needs, each check with what to do where it fails."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hcompile.codegen import get_backend
from hcompile.errors import HCompileError

STATES = ("ok", "warn", "fail")

_ROOM_BYTES = 1 << 30
_PROBE = "#include <Python.h>\n#include <omp.h>\nint main() { return omp_get_max_threads() > 0 ? 0 : 1; }\n"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at.

    Attributes:
        state: "ok"; "warn" where something optional is missing or slow; "fail" where hcompile cannot work.
        found: what is there.
        advice: what to do, empty when `state` is "ok".
    """

    name: str
    state: str
    found: str
    advice: str = ""

    def __post_init__(self) -> None:
        if self.state not in STATES or (self.state == "ok") != (not self.advice):
            raise ValueError(f"check {self.name}: state {self.state!r} with advice {self.advice!r}")


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """Every check, in the order in which a failing one can explain a later one."""

    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing that is needed is missing."""
        return all(check.state != "fail" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {"healthy": self.healthy, "checks": [asdict(check) for check in self.checks]}


def examine(database: str | None = None) -> DoctorReport:
    """Look at this process, this machine, and the tuning database (the default one, or the one at `database`)."""
    ffi = _pinned("apache-tvm-ffi", None)
    libraries = (
        _pinned("torch", "torch"),
        ffi,
        # With another tvm-ffi, importing tvm can crash (docs/adr/0005).
        _pinned("apache-tvm", "tvm" if ffi.state == "ok" else None),
        _pinned("xgboost-cpu", "xgboost"),
    )
    checks = [_python(), *libraries, _compiler()]
    if all(check.state == "ok" for check in libraries):
        checks += [_processor(), _threads(), _kernel(), _gpu()]
    checks += [
        _cache(),
        _database(database),
        _optional("transformers", "models given as transformers folders need it"),
        _optional("matplotlib", "hcompile inspect --plot needs it", extra="plot"),
        _optional("flash-attn-4", "one more candidate on Hopper and Blackwell GPUs", extra="fa4"),
    ]
    return DoctorReport(tuple(checks))


def _python() -> Check:
    found = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    return Check("python", "ok", found)


def _pinned(distribution: str, module: str | None) -> Check:
    """Check the installed version against the project's own requirement, before the module is imported."""
    from packaging.requirements import Requirement

    try:
        needs = map(Requirement, requires("hcompile") or ())
    except PackageNotFoundError:  # It runs from a checkout.
        return Check(distribution, "fail", "not checked: hcompile itself is not installed", "pip install .")
    wanted = next(need for need in needs if need.name == distribution)
    advice = f"pip install '{wanted}'"
    try:
        found = version(distribution)
    except PackageNotFoundError:
        return Check(distribution, "fail", "not installed", advice)
    if not wanted.specifier.contains(found, prereleases=True):
        return Check(distribution, "fail", f"{found}, wanted {wanted.specifier}", advice)
    if module is not None:
        try:
            import_module(module)
        except (ImportError, OSError) as error:
            return Check(
                distribution, "fail", f"{found}, which does not load: {error}", f"{advice} --force-reinstall"
            )
    return Check(distribution, "ok", found)


def _compiler() -> Check:
    """Compile what Inductor compiles: C++ with Python's headers and OpenMP."""
    compiler = os.environ.get("CXX", "g++")
    advice = "install g++ and Python's headers (Debian: apt-get install g++ python3-dev), or set CXX"
    where = shutil.which(compiler)
    if where is None:
        return Check("C++ compiler", "fail", f"no {compiler}", advice)
    command = (where, "-fopenmp", "-fsyntax-only", f"-I{sysconfig.get_path('include')}", "-x", "c++", "-")
    tried = subprocess.run(command, input=_PROBE, capture_output=True, text=True, check=False)
    if tried.returncode:
        reason = next((line for line in tried.stderr.splitlines() if "error" in line), "it failed")
        return Check("C++ compiler", "fail", f"{where}: {reason}", advice)
    release = subprocess.run(
        (where, "-dumpfullversion"), capture_output=True, text=True, check=False
    ).stdout.strip()
    return Check("C++ compiler", "ok", f"{where} {release}")


def _processor() -> Check:
    device = get_backend("tvm_cpu").device()
    found = f"{device.model}, {device.isa}, {device.cores} cores"
    if not device.isa.startswith("avx"):
        return Check(
            "processor", "warn", found, "expect little: kernels are written for vectors of 256 bits and wider"
        )
    return Check("processor", "ok", found)


def _threads() -> Check:
    """Kernels run on the threads that torch already has."""
    from hcompile.codegen.tvm_cpu.bind import openmp_parallel

    device = get_backend("tvm_cpu").device()
    found = f"{device.threads} of torch's OpenMP pool"
    if not openmp_parallel():
        return Check(
            "threads",
            "warn",
            "torch's OpenMP pool is not found",
            "kernels run on one thread: use torch's own builds",
        )
    if device.threads > device.cores:
        return Check(
            "threads",
            "warn",
            found,
            "set OMP_NUM_THREADS to the number of cores: threads wait for each other",
        )
    return Check("threads", "ok", found)


def _kernel() -> Check:
    """Generate, compile and load one kernel."""
    backend = get_backend("tvm_cpu")
    try:
        schedule = backend.safe_schedule("float32", 64)
        with TemporaryDirectory() as folder:
            backend.load(backend.build(schedule, "float32", 64, Path(folder)))
    except HCompileError as error:
        what, _, advice = str(error).rpartition(": ")
        return Check("kernel", "fail", what, advice)
    return Check("kernel", "ok", f"built and loaded ({schedule.template})")


def _gpu() -> Check:
    """Compile one kernel for the GPU, if there is one; a machine without one is no worse for its CPU."""
    import torch

    if not torch.cuda.is_available():
        return Check("GPU", "ok", "none that torch finds: --target cuda wants one")
    backend = get_backend("cuda")
    try:
        device = backend.device()
        schedule = backend.safe_schedule("bfloat16", 64)
        with TemporaryDirectory() as folder:
            backend.load(backend.build(schedule, "bfloat16", 64, Path(folder)))
    except HCompileError as error:
        what, _, advice = str(error).rpartition(": ")
        return Check("GPU", "fail", what, advice)
    return Check("GPU", "ok", f"{device.model}, {device.isa}, a kernel of {schedule.template} compiles")


def _cache() -> Check:
    from hcompile.tuning_db.location import cache_dir

    folder = cache_dir()
    advice = "make it writable, or name another folder in HCOMPILE_CACHE_DIR"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check("cache folder", "fail", f"{folder}: {error.strerror}", advice)
    found = f"{folder}, {free / (1 << 30):.1f} GiB free"
    if free < _ROOM_BYTES:
        return Check(
            "cache folder", "warn", found, "free some space: compiled graphs and kernels are kept there"
        )
    return Check("cache folder", "ok", found)


def _database(where: str | None) -> Check:
    from hcompile.tuning_db.store import open_db

    try:
        with open_db(where) as store:
            return Check("tuning database", "ok", f"{store.name}, {store.count()} records")
    except HCompileError as error:
        what, _, advice = str(error).rpartition(": ")
        return Check("tuning database", "fail", what, advice)


def _optional(distribution: str, use: str, extra: str | None = None) -> Check:
    try:
        return Check(distribution, "ok", version(distribution))
    except PackageNotFoundError:
        return Check(
            distribution, "warn", "not installed", f"{use}: pip install 'hcompile[{extra or distribution}]'"
        )
