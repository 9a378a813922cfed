from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hcompile.errors import EnvironmentFault, UsageError
from hcompile.tuning_db.exchange import ImportReport, read_export, write_export
from hcompile.tuning_db.record import Record, Status
from hcompile.tuning_db.rows import Filters
from hcompile.tuning_db.store import TuningDB, open_db
from hcompile.values import canonical_json

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=64)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "export.jsonl"


@pytest.fixture
def exported(tmp_path: Path, file: Path, record: Record) -> Path:
    """An export of three records."""
    with open_db(tmp_path / "other.sqlite") as other:
        for size in (1, 2, 3):
            other.add(with_block(record, size))
        assert other.export(file) == 3
    return file


def with_block(record: Record, size: int) -> Record:
    return replace(record, schedule=canonical_json({"template": "flash", "values": {"block_m": size}}))


def sealed(lines: list[str]) -> str:
    """Return the text of an export with these lines and a trailer that fits them."""
    body = "".join(f"{line}\n" for line in lines)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return body + canonical_json({"records": len(lines) - 1, "sha256": digest}) + "\n"


def refusal(db: TuningDB, file: Path) -> str:
    """Return why the import is refused, after seeing that it added nothing."""
    with pytest.raises(UsageError) as caught:
        db.import_(file)
    assert db.count() == 0
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.dictionaries(TEXT, st.integers(-(2**31), 2**31), max_size=4), message=TEXT, noisy=st.booleans()
)
def test_records_come_back_from_a_file_as_they_were(
    file: Path, record: Record, values: dict[str, int], message: str, noisy: bool
) -> None:
    schedule = canonical_json({"template": "flash", "values": values})
    failed = Record.failed(record.key, schedule, Status.CRASH, message, run_id="r", noisy=noisy)
    assert write_export(file, [record, failed]) == 2
    assert list(read_export(file)) == [(2, record), (3, failed)]


def test_a_database_comes_back_from_its_export(db: TuningDB, exported: Path, file: Path) -> None:
    assert db.import_(exported) == ImportReport(3, 0, 0, ())
    before = exported.read_bytes()
    assert db.export(file) == 3
    assert file.read_bytes() == before


def test_an_import_counts_what_is_new_newer_and_there(db: TuningDB, exported: Path, record: Record) -> None:
    db.add(with_block(record, 1))
    db.add(replace(with_block(record, 2), measured_at="2026-11-23T00:00:00.000000Z"))
    assert db.import_(exported) == ImportReport(added=1, replaced=1, duplicate=1, refused=())
    assert db.import_(exported) == ImportReport(added=0, replaced=0, duplicate=3, refused=())


def test_an_export_may_be_filtered(db: TuningDB, record: Record, file: Path) -> None:
    db.add(record)
    assert db.export(file, Filters(run_id="none")) == 0
    assert db.import_(file) == ImportReport(0, 0, 0, ())
    assert db.export(file, record.key) == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_with_any_byte_changed_is_refused(db: TuningDB, exported: Path, data: st.DataObject) -> None:
    content = bytearray(exported.read_bytes())
    place = data.draw(st.integers(0, len(content) - 2))  # The last newline says nothing.
    content[place] ^= data.draw(st.integers(1, 255))
    changed = exported.with_name("changed.jsonl")
    changed.write_bytes(content)
    refusal(db, changed)


def test_a_file_cut_short_anywhere_is_refused(db: TuningDB, exported: Path, file: Path) -> None:
    content = exported.read_bytes()
    lines = content.splitlines(keepends=True)
    for kept in range(len(lines)):
        file.write_bytes(b"".join(lines[:kept]))
        assert "cut short" in refusal(db, file)
    file.write_bytes(content[:-40])
    refusal(db, file)


def test_a_file_with_records_taken_out_or_put_in_is_refused(db: TuningDB, exported: Path, file: Path) -> None:
    lines = exported.read_text().splitlines(keepends=True)
    for changed in (lines[:1] + lines[2:], lines[:2] + lines[1:], [*lines, lines[1]], [*lines, lines[-1]]):
        file.write_text("".join(changed))
        refusal(db, file)


def test_a_forged_time_without_the_hash_is_refused(db: TuningDB, exported: Path) -> None:
    exported.write_text(exported.read_text().replace('"median_us":100.0', '"median_us":99.0'))
    assert "was changed or damaged" in refusal(db, exported)


@pytest.mark.parametrize("content", [b"", b"\n", b"{}\n", b"\xff\xfe\x00", b"[" * 100_000, b"x" * 3_000_000])
def test_what_is_no_export_is_refused(db: TuningDB, file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert str(file) in refusal(db, file)


def test_a_missing_file_and_a_folder_are_refused(db: TuningDB, tmp_path: Path) -> None:
    assert "No such file" in refusal(db, tmp_path / "missing.jsonl")
    assert "Is a directory" in refusal(db, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "superb"},
        {"median_us": -1.0},
        {"samples": 10**30},
        {"message": "\ud800"},
        {"schedule": {"template": "flash", "values": {"a": "os.system"}}},
        {"key_hash": "0" * 64},
        {"key": {}},
    ],
    ids=str,
)
def test_a_record_that_is_no_value_is_refused_alone(
    db: TuningDB, file: Path, record: Record, changes: dict[str, Any]
) -> None:
    good = canonical_json(record.to_json())
    bad = json.dumps({**record.to_json(), **changes})
    file.write_text(
        sealed(['{"format":"hcompile.tuning-records","schema":1}', bad, "[" * 5000, "not json", good])
    )
    report = db.import_(file)
    assert report.added == 1
    assert [reason.partition(":")[0] for reason in report.refused] == ["line 2", "line 3", "line 4"]
    assert db.records() == [record]


def test_a_key_is_computed_on_import(db: TuningDB, file: Path, record: Record) -> None:
    form = record.to_json()
    form["key"] = {**form["key"], "backend": "other"}
    file.write_text(sealed(['{"format":"hcompile.tuning-records","schema":1}', canonical_json(form)]))
    assert db.import_(file).added == 1
    assert db.best(record.key) is None
    assert db.best(replace(record.key, backend="other")) is not None


def test_another_schema_of_the_file_is_refused(db: TuningDB, file: Path) -> None:
    file.write_text(sealed(['{"format":"hcompile.tuning-records","schema":2}']))
    assert "its first line is not" in refusal(db, file)


def test_an_export_into_no_folder_leaves_nothing(db: TuningDB, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="cannot be written \\(No such file or directory\\)"):
        db.export(tmp_path / "missing" / "export.jsonl")
    assert not (tmp_path / "missing").exists()


def test_an_export_that_fails_leaves_the_old_file(file: Path, record: Record) -> None:
    write_export(file, [record])
    before = file.read_bytes()

    def breaking() -> Any:
        yield record
        raise OSError(28, "No space left on device")

    with pytest.raises(EnvironmentFault, match="No space left on device"):
        write_export(file, breaking())
    assert file.read_bytes() == before
    assert list(file.parent.glob(".export*")) == []


def test_an_export_never_replaces_what_is_no_file(record: Record, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
        with pytest.raises(UsageError, match="is no regular file"):
            write_export(place, [record])


def test_records_are_read_one_at_a_time(exported: Path, record: Record) -> None:
    assert next(read_export(exported)) == (2, with_block(record, 1))
