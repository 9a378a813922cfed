from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from hcompile.errors import EnvironmentFault
from hcompile.patterns import Dense, Local
from hcompile.tuning_db.key import Device, RecordKey
from hcompile.tuning_db.record import Record, Status
from hcompile.tuning_db.result import ResultKey, pack, unpack
from hcompile.tuning_db.rows import Added, Filters
from hcompile.tuning_db.store import TuningDB, open_db
from hcompile.values import canonical_json
from hcompile.workload import Workload

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
).filter(lambda value: "\\ud" not in ascii(value))


def block(size: int) -> str:
    return canonical_json({"template": "flash", "values": {"block_m": size}})


def at(record: Record, second: int, **changes: Any) -> Record:
    return replace(record, measured_at=f"2026-11-24T06:00:{second:02}.000000Z", **changes)


def slower(record: Record, factor: float, **changes: Any) -> Record:
    assert record.median_us and record.p20_us and record.p80_us
    times = {name: getattr(record, name) * factor for name in ("median_us", "p20_us", "p80_us")}
    return replace(record, **times, **changes)


def failure(record: Record, status: Status, schedule: str) -> Record:
    return Record.failed(record.key, schedule, status, "why", run_id="first")


def other_keys(key: RecordKey) -> Iterator[tuple[str, RecordKey]]:
    """Yield the key with each of its fields changed, one at a time."""
    device: dict[str, Any] = {
        "kind": "gpu",
        "model": "other",
        "isa": "skylake",
        "cores": 3,
        "threads": 3,
        "memory_class": "8GiB",
    }
    workload: dict[str, Any] = {
        "op": "decode",
        "dtype": "bfloat16",
        "batch": 2,
        "kv_heads": 4,
        "head_dim": 128,
        "q_len": 4096,
        "kv_len": 12288,
        "causal": False,
        "heads": ((Dense(), 2), (Local(256, 64), 6)),
    }
    whole: dict[str, Any] = {"versions": key.versions[1:], "backend": "other", "source_sha256": "6" * 64}
    assert {*device} == {field.name for field in fields(Device)}
    assert {*workload, "q_heads"} == {field.name for field in fields(Workload)}
    assert {*whole, "template", "device", "workload"} == {field.name for field in fields(RecordKey)}
    for name, value in device.items():
        yield f"device {name}", replace(key, device=replace(key.device, **{name: value}))
    for name, value in workload.items():
        yield f"workload {name}", replace(key, workload=replace(key.workload, **{name: value}))
    heads = ((Dense(), 1), (Local(256, 64), 15))
    yield "workload q_heads", replace(key, workload=replace(key.workload, q_heads=16, heads=heads))
    for name, value in whole.items():
        yield name, replace(key, **{name: value})
    yield "template", replace(key, template="other")
    for library, version in key.versions:
        changed = tuple((name, f"{version}.1" if name == library else old) for name, old in key.versions)
        yield f"version of {library}", replace(key, versions=changed)


def test_an_empty_database_has_no_best(db: TuningDB, key: RecordKey) -> None:
    assert db.best(key) is None
    assert db.records() == []


def test_the_best_is_the_fastest_right_candidate(db: TuningDB, record: Record) -> None:
    db.add(slower(record, 1.5, schedule=block(32)))
    db.add(record)
    db.add(slower(record, 3.0, schedule=block(16)))
    db.add(failure(record, Status.WRONG, block(8)))
    assert db.best(record.key) == record


def test_failures_alone_make_no_best_but_are_kept(db: TuningDB, record: Record) -> None:
    failed = [status for status in Status if status is not Status.OK]
    for size, status in enumerate(failed, start=1):
        assert db.add(failure(record, status, block(size))) is Added.NEW
    assert db.best(record.key) is None
    assert {kept.status for kept in db.records(record.key)} == set(failed)


def test_a_record_is_never_reused_under_another_key(db: TuningDB, record: Record) -> None:
    db.add(record)
    for changed, key in other_keys(record.key):
        assert key.digest != record.key.digest, changed
        assert db.best(key) is None, changed
        assert db.records(key) == [], changed
    assert db.best(record.key) == record


def test_the_newest_measurement_of_a_schedule_counts(db: TuningDB, record: Record) -> None:
    assert db.add(at(record, 5)) is Added.NEW
    assert db.add(slower(at(record, 9), 2.0)) is Added.NEWER
    assert db.add(at(record, 7)) is Added.DUPLICATE
    assert db.records() == [slower(at(record, 9), 2.0)]


def test_a_candidate_that_turns_out_wrong_is_best_no_more(db: TuningDB, record: Record) -> None:
    db.add(record)
    db.add(failure(record, Status.WRONG, record.schedule))
    assert db.best(record.key) is None


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(4)))
def test_the_order_of_adding_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    key = RecordKey(Device("cpu", "x", "y", 1, 1, "z"), (), "b", "flash", "0" * 64, _small_workload())
    measured = Record.timed(key, block(1), [10.0], max_err=0.0, tolerance=0.0, run_id="r")
    records = [at(measured, 1), at(measured, 2), at(measured, 2, run_id="a"), at(measured, 2, run_id="b")]
    with open_db(tmp_path_factory.mktemp("order") / "tuning.sqlite") as db:
        for number in order:
            db.add(records[number])
        assert db.records() == [max(records[1:], key=lambda record: record.digest)]


def _small_workload() -> Workload:
    return Workload.of([Dense()], kv_heads=1, head_dim=8, q_len=1, kv_len=1, causal=True, dtype="float32")


def test_filters_take_what_equals_them(db: TuningDB, record: Record) -> None:
    other = replace(
        record,
        key=replace(record.key, backend="other", device=replace(record.key.device, model="Xeon 100%")),
        run_id="second",
    )
    wrong = failure(record, Status.WRONG, block(8))
    for each in (record, other, wrong):
        db.add(each)
    assert db.records(Filters(backend="other")) == [other]
    assert db.records(Filters(device="xeon")) == [other]
    assert db.records(Filters(device="0%")) == [other]
    assert db.records(Filters(device="%")) == [other]
    assert db.records(Filters(status=Status.WRONG)) == [wrong]
    assert db.records(Filters(run_id="second")) == [other]
    assert db.records(Filters(dtype="bfloat16")) == []
    assert db.records(Filters(template="flash", backend="tvm_cpu")) == [record, wrong]
    assert db.records(Filters(prefix=record.digest[:8])) == [record]
    assert db.records(Filters(prefix=record.key.digest[:8])) == [record, wrong]
    assert db.count(Filters(backend="tvm_cpu")) == 2
    assert db.count() == 3
    assert db.records(limit=2) == [record, wrong]


def test_records_of_other_workloads_are_alike_in_all_else_and_the_newest_keys_come_first(
    db: TuningDB, record: Record
) -> None:
    first, second = (
        replace(record, key=replace(record.key, workload=replace(record.key.workload, batch=batch)))
        for batch in (2, 4)
    )
    elsewhere = replace(first, key=replace(first.key, device=replace(first.key.device, threads=1)))
    outdated = replace(first, key=replace(first.key, source_sha256="6" * 64))
    failed = failure(second, Status.WRONG, block(8))
    for each in (first, second, failed, record, elsewhere, outdated):
        db.add(each)
    assert db.alike(record.key, 10) == [second, first]
    assert db.alike(record.key, 1) == [second]


def test_records_outlive_the_handle(path: Path, record: Record) -> None:
    with open_db(path) as db:
        db.add(record)
    with open_db(f"sqlite:///{path}") as db:
        assert db.best(record.key) == record


def test_threads_share_one_handle(db: TuningDB, record: Record) -> None:
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda size: db.add(replace(record, schedule=block(size))), range(64)))
    assert added == [Added.NEW] * 64
    assert db.count(record.key) == 64


def test_a_row_under_a_wrong_key_is_damage(db: TuningDB, record: Record, path: Path) -> None:
    other = replace(record.key, backend="other")
    db.add(replace(record, key=other))
    with db._engine.begin() as connection:
        connection.execute(text("UPDATE keys SET digest = :digest"), {"digest": record.key.digest})
    with pytest.raises(EnvironmentFault, match=f"tuning database {path} is damaged .*wrong key"):
        db.best(record.key)


def test_a_row_that_is_no_record_is_damage(db: TuningDB, record: Record, path: Path) -> None:
    db.add(record)
    with db._engine.begin() as connection:
        connection.execute(text("UPDATE records SET status = 'superb'"))
    with pytest.raises(EnvironmentFault, match=f"tuning database {path} is damaged .*superb"):
        db.records()


RESULT = ResultKey.of(
    "policy.profile",
    weights_sha256="1" * 64,
    data_sha256="2" * 64,
    code_sha256="3" * 64,
    extra={"b": 1, "a": 2},
)


def test_a_result_comes_back_under_its_key(db: TuningDB) -> None:
    assert db.get_result(RESULT) is None
    db.put_result(RESULT, {"old": True})
    db.put_result(RESULT, {"scores": [0.1, 2.0]})
    assert db.get_result(RESULT) == {"scores": [0.1, 2.0]}


def test_a_result_is_never_reused_under_another_key(db: TuningDB) -> None:
    db.put_result(RESULT, [1])
    changes = {
        "kind": "other",
        "weights_sha256": "0" * 64,
        "data_sha256": "0" * 64,
        "code_sha256": "0" * 64,
        "extra": "{}",
    }
    assert {*changes} == {field.name for field in fields(ResultKey)}
    for name, value in changes.items():
        assert db.get_result(replace(RESULT, **{name: value})) is None, name


def test_the_order_of_extra_fields_does_not_matter() -> None:
    assert replace(RESULT, extra='{"a":2,"b":1}') == RESULT
    with pytest.raises(ValueError, match="not canonical JSON"):
        replace(RESULT, extra='{"b":1,"a":2}')


@settings(max_examples=40, deadline=None)
@given(JSON)
def test_any_json_value_can_be_a_result(payload: Any) -> None:
    assert unpack(pack(payload)) == payload


def test_a_damaged_result_says_so(db: TuningDB, path: Path) -> None:
    db.put_result(RESULT, [1])
    with db._engine.begin() as connection:
        connection.execute(text("UPDATE results SET payload = x'00'"))
    with pytest.raises(EnvironmentFault, match=f"tuning database {path} is damaged"):
        db.get_result(RESULT)
