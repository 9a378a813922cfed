from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hcompile.tuning_db.key import Device, RecordKey
from hcompile.tuning_db.record import MESSAGE_CHARS, Record, Status, utc_now
from hcompile.values import canonical_json

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=64)
FINITE = st.floats(0, allow_nan=False, allow_infinity=False).map(abs)
SCHEDULES = st.dictionaries(TEXT, st.integers(-(2**31), 2**31), max_size=5)


def schedule_text(values: dict[str, int]) -> str:
    return canonical_json({"template": "flash", "values": values})


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=SCHEDULES, status=st.sampled_from(Status), message=TEXT, max_err=st.none() | FINITE, run_id=TEXT
)
def test_failures_round_trip_through_json(
    key: RecordKey, values: dict[str, int], status: Status, message: str, max_err: float | None, run_id: str
) -> None:
    if status is Status.OK:
        return
    record = Record.failed(key, schedule_text(values), status, message, run_id=run_id, max_err=max_err)
    again = Record.from_json(json.loads(canonical_json(record.to_json())))
    assert again == record
    assert again.digest == record.digest


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(times=st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=50))
def test_times_of_any_kind_make_a_record_that_round_trips(key: RecordKey, times: Sequence[float]) -> None:
    record = Record.timed(key, schedule_text({}), times, max_err=0.0, tolerance=0.0, run_id="r")
    assert record.samples == len(times)
    assert Record.from_json(json.loads(canonical_json(record.to_json()))) == record


def test_median_and_spread_are_those_of_the_times(key: RecordKey) -> None:
    times = [float(time) for time in range(10, 0, -1)]
    record = Record.timed(key, schedule_text({}), times, max_err=0.0, tolerance=1.0, run_id="r")
    assert (record.p20_us, record.median_us, record.p80_us) == pytest.approx((2.8, 5.5, 8.2))


def test_times_are_utc_and_sort_as_text() -> None:
    first, second = utc_now(), utc_now()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first)
    assert first <= second


def test_a_long_message_keeps_its_end_and_what_no_store_holds_is_dropped(key: RecordKey) -> None:
    message = "start " + "x" * MESSAGE_CHARS + "\0 \ud800 the cause"
    record = Record.failed(key, schedule_text({}), Status.COMPILE_ERROR, message, run_id="r")
    assert record.message.endswith("x ? the cause")
    assert len(record.message) == MESSAGE_CHARS


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"median_us": None}, "ok needs median_us"),
        ({"median_us": float("nan")}, "median_us is nan"),
        ({"median_us": 100}, "median_us is 100, wanted a finite float"),
        ({"p20_us": 0.0}, "wanted positive and in order"),
        ({"p80_us": 99.0}, "wanted positive and in order"),
        ({"samples": 0}, "ok needs"),
        ({"samples": True}, "samples is True"),
        ({"samples": 2**64}, "samples is 18446744073709551616"),
        ({"max_err": 1.0}, "above tolerance"),
        ({"max_err": None}, "error of None"),
        ({"max_err": -1.0}, "max_err is -1.0"),
        ({"status": Status.CRASH}, "a record of status crash has no times"),
        ({"status": "ok"}, "status is 'ok'"),
        ({"message": "a\0b"}, "without NUL"),
        ({"message": "x" * (MESSAGE_CHARS + 1)}, "message is"),
        ({"run_id": "\ud800"}, "surrogates"),
        ({"noisy": 0}, "noisy is 0"),
        ({"measured_at": "2026-11-24"}, "wanted UTC"),
        ({"measured_at": "2026-11-24T06:00:00.000000"}, "wanted UTC"),
        ({"measured_at": "0001-01-01T00:00:00+23:59"}, "wanted UTC"),
        ({"schedule": "{"}, "no JSON text"),
        ({"schedule": None}, "no JSON text"),
        ({"schedule": "[]"}, "wanted an object"),
        (
            {"schedule": '{"template":"other","values":{}}'},
            "schedule is of 'other', its key of template 'flash'",
        ),
        ({"schedule": '{"template":"flash","values":[]}'}, "schedule values are"),
        ({"schedule": '{"template":"flash","values":{"a":"__import__"}}'}, "schedule axis a is '__import__'"),
        ({"schedule": '{"template":"flash","values":{"a":1.0}}'}, "schedule axis a is 1.0"),
        ({"schedule": '{"template":"flash","values":{"a":true}}'}, "schedule axis a is True"),
        ({"schedule": '{"values":{},"template":"flash"}'}, "not canonical"),
    ],
)
def test_a_wrong_record_says_what_is_wrong(record: Record, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(record, **changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "superb"}, "status is 'superb'"),
        ({"status": []}, "status is \\[\\]"),
        ({"key_hash": "0" * 64}, "unknown fields"),
        ({"key": None}, "record key is None"),
        ({"schedule": {"template": "flash"}}, "missing fields"),
    ],
)
def test_a_wrong_form_of_a_record_says_what_is_wrong(
    record: Record, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        Record.from_json({**record.to_json(), **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"versions": (("torch", "2"), ("hcompile", "1"))}, "not sorted"),
        ({"versions": (("torch", "2"), ("torch", "3"))}, "come twice"),
        ({"versions": (("torch", 2),)}, "version of torch is 2"),
        ({"source_sha256": "5" * 63}, "source_sha256 is"),
        ({"source_sha256": "G" * 64}, "source_sha256 is"),
        ({"backend": ""}, "backend is ''"),
    ],
)
def test_a_wrong_key_says_what_is_wrong(key: RecordKey, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(key, **changes)


def test_versions_in_a_file_are_an_object(key: RecordKey) -> None:
    with pytest.raises(ValueError, match="versions are"):
        RecordKey.from_json({**key.to_json(), "versions": [["torch", "2"]]})


@pytest.mark.parametrize(("field", "value"), [("cores", 0), ("threads", "2"), ("model", ""), ("isa", None)])
def test_a_wrong_device_names_the_field(key: RecordKey, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"device {field} is"):
        Device.from_json({**key.device.to_json(), field: value})


def test_the_digest_that_stored_measurements_are_keyed_by_stays(key: RecordKey) -> None:
    assert key.digest == "efe16caf4cae62d5e2001ed913b302bb59b352d25e216bd21e22b1b1a1704d34"
