from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hcompile.cli.db import STATUSES, db
from hcompile.errors import EnvironmentFault, UsageError
from hcompile.patterns import Dense, Local
from hcompile.tuning_db.key import Device, RecordKey
from hcompile.tuning_db.record import Record, Status
from hcompile.tuning_db.rows import Filters
from hcompile.tuning_db.store import open_db
from hcompile.values import canonical_json
from hcompile.workload import Workload

FAST = '{"template":"flash","values":{"block_m":64,"block_n":32}}'
WRONG = '{"template":"flash","values":{"block_m":128,"block_n":32}}'


@pytest.fixture
def records() -> list[Record]:
    workload = Workload.of(
        [Dense(), Local(256, 64)],
        kv_heads=1,
        head_dim=64,
        q_len=1000,
        kv_len=1000,
        causal=True,
        dtype="float32",
    )
    device = Device("cpu", "AMD [bold]EPYC[/bold]", "znver4", cores=2, threads=4, memory_class="64GiB")
    key = RecordKey(device, (("torch", "2.13.0"),), "tvm_cpu", "flash", "5" * 64, workload)
    return [
        Record.timed(key, FAST, [10.0, 11.0, 12.0], max_err=1e-6, tolerance=1e-5, run_id="run-1", noisy=True),
        Record.failed(key, WRONG, Status.WRONG, "too far\noff", run_id="run-2", max_err=0.5),
    ]


@pytest.fixture
def path(tmp_path: Path, records: list[Record]) -> Path:
    place = tmp_path / "tuning.sqlite"
    with open_db(place) as store:
        for record in records:
            store.add(record)
    return place


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(db, [str(argument) for argument in arguments])


def printed(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_list_prints_a_table_on_stdout_and_the_rest_on_stderr(path: Path, records: list[Record]) -> None:
    result = run("list", "--db", path)
    assert result.exit_code == 0
    head, fast, wrong = result.stdout.splitlines()
    assert head.split() == ["id", "key", "status", "median", "template", "workload", "device", "measured"]
    assert fast.startswith(
        f"{records[0].digest[:12]}  {records[0].key.digest[:12]}  ok (noisy)  11.0 us  flash"
    )
    assert "1x2/1x64 1024x1024 causal: 1 dense, 1 local 256+64  AMD [bold]EPYC[/bold]" in fast
    assert wrong.startswith(f"{records[1].digest[:12]}  {records[1].key.digest[:12]}  wrong ")
    assert result.stderr == f"2 of 2 records in {path}\n"


def test_list_as_json_is_one_object_that_holds_whole_records(path: Path, records: list[Record]) -> None:
    value = printed(run("list", "--json", "--db", path))
    assert (value["database"], value["total"]) == (str(path), 2)
    for form, record in zip(value["records"], records, strict=True):
        assert form.pop("id") == record.digest
        assert form.pop("key_id") == record.key.digest
        assert Record.from_json(form) == record


def test_list_takes_the_default_database_when_none_is_named(cache_dir: Path) -> None:
    result = run("list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"0 of 0 records in {cache_dir / 'tuning.sqlite'}\n"


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--status", "wrong"], 1),
        (["--run", "run-1"], 1),
        (["--device", "epyc"], 2),
        (["--backend", "other"], 0),
        (["--template", "flash", "--dtype", "float32"], 2),
        (["--dtype", "bfloat16"], 0),
    ],
)
def test_list_takes_filters(path: Path, options: list[str], count: int) -> None:
    assert printed(run("list", "--json", "--db", path, *options))["total"] == count


def test_list_has_a_limit_and_says_how_many_there_are(path: Path) -> None:
    result = run("list", "--db", path, "--limit", "1")
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr.startswith("1 of 2 records")


def test_an_unknown_status_is_a_usage_error(path: Path) -> None:
    assert run("list", "--db", path, "--status", "superb").exit_code == 2


def test_the_statuses_offered_are_those_of_records() -> None:
    assert list(STATUSES) == list(Status)


def test_show_prints_the_key_and_its_records(path: Path, records: list[Record]) -> None:
    result = run("show", "--db", path, records[0].key.digest[:12])
    assert result.exit_code == 0
    assert f"key      {records[0].key.digest}\n" in result.stdout
    assert "template flash of tvm_cpu, source 555555555555\n" in result.stdout
    assert "device   AMD [bold]EPYC[/bold] (znver4), 2 cores, 4 threads, 64GiB\n" in result.stdout
    assert "versions torch 2.13.0\n" in result.stdout
    assert "11.0 us  10.4..11.6  3  1.0e-06  block_m=64 block_n=32" in result.stdout
    assert "too far off" in result.stdout


def test_show_takes_the_id_of_one_record(path: Path, records: list[Record]) -> None:
    value = printed(run("show", "--json", "--db", path, records[1].digest[:12]))
    assert [form["id"] for form in value["records"]] == [records[1].digest]


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [("ffffffff", "starts with ffffffff"), ("xyz", "is no id or key"), ("%%%%", "is no id or key")],
)
def test_show_says_what_to_do_when_there_is_nothing(path: Path, wanted: str, reason: str) -> None:
    result = run("show", "--db", path, wanted)
    assert isinstance(result.exception, UsageError)
    assert reason in str(result.exception)
    assert "hcompile db list" in str(result.exception)


def test_export_and_import_carry_records_over(path: Path, tmp_path: Path, records: list[Record]) -> None:
    file, other = tmp_path / "records.jsonl", tmp_path / "other.sqlite"
    result = run("export", "--db", path, "--status", "ok", file)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"1 records of {path} written to {file}\n"
    value = printed(run("import", "--json", "--db", other, file))
    assert value == {
        "database": str(other),
        "file": str(file),
        "added": 1,
        "replaced": 0,
        "duplicate": 0,
        "refused": [],
    }
    with open_db(other) as store:
        assert store.records() == records[:1]
    assert run("import", "--db", other, file).stderr.endswith("1 were there already, 0 refused\n")


def test_export_as_json_is_one_object(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    value = printed(run("export", "--json", "--db", path, file))
    assert value == {"database": str(path), "file": str(file), "records": 2}


def test_import_of_a_changed_file_is_refused(path: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "records.jsonl", tmp_path / "other.sqlite"
    run("export", "--db", path, file)
    file.write_text(file.read_text().replace("znver4", "znver5"))
    result = run("import", "--db", other, file)
    assert isinstance(result.exception, UsageError)
    assert "was changed or damaged" in str(result.exception)
    with open_db(other) as store:
        assert store.count(Filters()) == 0


def test_import_says_how_many_records_it_refuses_and_takes_the_others(
    tmp_path: Path, records: list[Record]
) -> None:
    file, other = tmp_path / "records.jsonl", tmp_path / "other.sqlite"
    with open_db(tmp_path / "tuning.sqlite") as store:
        for record in records:
            store.add(record)
        store.export(file)
    lines = file.read_text().splitlines()
    lines[2] = lines[2].replace('"status":"wrong"', '"status":"superb"')
    body = "".join(f"{line}\n" for line in lines[:-1])
    trailer = canonical_json({"records": 2, "sha256": hashlib.sha256(body.encode()).hexdigest()})
    file.write_text(f"{body}{trailer}\n")
    result = run("import", "--db", other, file)
    assert isinstance(result.exception, UsageError)
    assert f"import {file}: 1 of its records" in str(result.exception)
    assert "1 added" in result.stderr and "1 refused" in result.stderr
    with open_db(other) as store:
        assert store.records() == records[:1]


@pytest.mark.parametrize("command", [["list"], ["show", "abcd"], ["export", "x"]], ids=" ".join)
def test_looking_into_a_missing_database_is_a_usage_error_and_makes_none(
    command: list[str], tmp_path: Path
) -> None:
    result = run(*command, "--db", tmp_path / "typo.sqlite")
    assert isinstance(result.exception, UsageError)
    assert "typo.sqlite does not exist" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command", [["list"], ["show", "abcd"], ["export", "x"], ["import", "x"]], ids=" ".join
)
def test_a_database_that_cannot_be_is_an_environment_fault(command: list[str], tmp_path: Path) -> None:
    result = run(*command, "--db", tmp_path)
    assert isinstance(result.exception, EnvironmentFault)
    assert result.exception.exit_code == 5
