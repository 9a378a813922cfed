"""Building: one file per content, from the cache where it is, and one line when it cannot be done."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hcompile.codegen import get_backend
from hcompile.codegen.tvm_cpu import build
from hcompile.errors import EnvironmentFault, KernelError, UsageError
from hcompile.patterns import Dense
from hcompile.schedules import Schedule
from hcompile.workload import Workload
from tests.codegen.kernel_cases import DENSE, assert_right, make_call

BACKEND = get_backend("tvm_cpu")
SAFE = BACKEND.safe_schedule("float32", 16)


def test_a_built_kernel_is_found_again_without_tvm(cache_dir: Path) -> None:
    path = BACKEND.build(SAFE, "float32", 16)
    assert path.parent == cache_dir / "kernels" and [path] == list(path.parent.iterdir())
    code = (
        "import sys; from hcompile.codegen import get_backend; b = get_backend('tvm_cpu');"
        "path = b.build(b.safe_schedule('float32', 16), 'float32', 16); b.load(path);"
        f"assert str(path) == {str(path)!r}, path; assert 'tvm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ), timeout=120)


def test_threads_that_build_the_same_kernel_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        paths = set(pool.map(lambda _: BACKEND.build(SAFE, "float32", 16, tmp_path), range(2)))
    assert list(tmp_path.iterdir()) == list(paths)
    call = make_call([DENSE, (9, 2)], 40, 40, head_dim=16)
    assert_right(call, call.run(BACKEND.load(paths.pop())))


def test_what_decides_the_content_decides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_compile", lambda *arguments: arguments[-1].write_bytes(b""))
    plans = [
        schedule
        for schedule, _ in zip(BACKEND.space(workload("float32", 16)).enumerate(), range(3), strict=False)
    ]
    paths = {BACKEND.build(plan, "float32", 16, tmp_path) for plan in plans}
    paths.add(BACKEND.build(plans[0], "float32", 32, tmp_path))
    monkeypatch.setattr(build, "version", lambda name: "0.0")
    paths.add(BACKEND.build(plans[0], "float32", 16, tmp_path))
    monkeypatch.setattr(build, "source_hash", lambda: "other")
    paths.add(BACKEND.build(plans[0], "float32", 16, tmp_path))
    assert len(paths) == 6


def workload(dtype: str, head_dim: int) -> Workload:
    return Workload.of(
        [Dense()], kv_heads=1, head_dim=head_dim, q_len=64, kv_len=64, causal=True, dtype=dtype
    )


def test_an_illegal_schedule_is_refused() -> None:
    values = dict(SAFE.values) | {"mr_s": 7}
    with pytest.raises(KernelError, match="not legal"):
        BACKEND.build(Schedule.of(SAFE.template, values), "float32", 16)


@pytest.mark.parametrize(("dtype", "head_dim"), [("float32", 20), ("float32", 512), ("float16", 64)])
def test_heads_without_a_kernel_are_refused(dtype: str, head_dim: int) -> None:
    assert not BACKEND.supports(dtype, head_dim)
    with pytest.raises(KernelError, match="no CPU kernel"):
        BACKEND.safe_schedule(dtype, head_dim)


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(EnvironmentFault, match="no C compiler"):
        BACKEND.build(SAFE, "float32", 16, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_c_compiler_is_the_one_that_cc_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "my-cc"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", f"{compiler} -m64")
    assert build._c_compiler() == [str(compiler), "-m64"]
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(EnvironmentFault, match="CC names no-such-compiler"):
        build._c_compiler()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFault, match="HCOMPILE_CACHE_DIR"):
        BACKEND.build(SAFE, "float32", 16, tmp_path / "file")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kernel.so"
    path.write_bytes(b"no library")
    with pytest.raises(KernelError, match="delete it"):
        BACKEND.load(path)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(UsageError, match="choose one of tvm_cpu"):
        get_backend("none")
    with pytest.raises(UsageError, match="cannot be loaded"):
        get_backend("hcompile.codegen:nothing")


def test_the_record_key_names_device_versions_and_source() -> None:
    key = BACKEND.record_key(workload("float32", 16))
    assert key.backend == "tvm_cpu" and key.source_sha256 == BACKEND.kernel_source_hash()
    assert key.device == BACKEND.device() and [name for name, _ in key.versions] == ["apache-tvm", "torch"]
