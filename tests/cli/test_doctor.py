"""`hcompile doctor`, on this machine and on ones that lack something."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from hcompile import doctor
from hcompile.cli.main import main
from hcompile.tuning_db.key import Device


def test_machine_that_runs_the_tests_is_healthy() -> None:
    result = CliRunner().invoke(main, ["doctor", "--json"])
    report = json.loads(result.stdout)
    assert {check["name"]: check for check in report["checks"] if check["state"] == "fail"} == {}
    assert (result.exit_code, report["healthy"]) == (0, True)


def test_a_checkout_that_is_not_installed_is_an_environment_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", missing)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 5
    assert (
        "not checked: hcompile itself is not installed" in result.stdout and "pip install ." in result.stdout
    )


def test_missing_compiler_is_an_environment_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 5
    assert "no no-such-compiler" in result.stdout
    expected = "Error: this machine lacks what hcompile needs (C++ compiler): do as the report says\n"
    assert result.stderr == expected


def test_compiler_that_cannot_compile_is_an_environment_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    assert CliRunner().invoke(main, ["doctor"]).exit_code == 5


def test_file_in_place_of_the_cache_folder_is_an_environment_fault(cache_dir: Path) -> None:
    cache_dir.write_text("")
    result = CliRunner().invoke(main, ["doctor", "--json"])
    failed = {check["name"] for check in json.loads(result.stdout)["checks"] if check["state"] == "fail"}
    assert (result.exit_code, failed) == (5, {"cache folder", "tuning database"})


def test_database_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no database\n" * 200)
    result = CliRunner().invoke(main, ["doctor", "--json", "--db", str(path)])
    check = next(c for c in json.loads(result.stdout)["checks"] if c["name"] == "tuning database")
    assert check["state"] == "fail"
    assert str(path) in check["found"] + check["advice"]


@pytest.mark.parametrize(
    ("isa", "state"), [("avx2", "ok"), ("avx512", "ok"), ("avx512-bf16", "ok"), ("x86_64", "warn")]
)
def test_processor_with_wide_vectors_is_fine(isa: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device("cpu", "any", isa, cores=2, threads=2, memory_class="1GiB")
    monkeypatch.setattr(doctor, "get_backend", lambda name: SimpleNamespace(device=lambda: device))
    assert doctor._processor().state == state


def test_tvm_is_not_imported_beside_another_tvm_ffi(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    monkeypatch.setattr(doctor, "import_module", imported.append)
    monkeypatch.setattr(
        doctor, "version", lambda name: "0.1.15" if name == "apache-tvm-ffi" else metadata.version(name)
    )
    states = {check.name: check.state for check in doctor.examine().checks}
    assert states["apache-tvm-ffi"] == "fail"
    assert imported == ["torch", "xgboost"]
