"""Records and claims as rows: the statements that the store is made of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import Enum

from sqlalchemy import ColumnElement, Select, and_, delete, or_, select, tuple_
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import InstrumentedAttribute, Session

from hcompile.tuning_db.key import RecordKey
from hcompile.tuning_db.models import ClaimRow, KeyRow, RecordRow
from hcompile.tuning_db.record import Record, Status
from hcompile.values import canonical_json

_MEASURES = (
    "median_us",
    "p20_us",
    "p80_us",
    "samples",
    "max_err",
    "tolerance",
    "message",
    "measured_at",
    "run_id",
    "noisy",
)


class Added(Enum):
    """What adding a record did: a new row, a newer measurement in place of an older one, or nothing."""

    NEW = "new"
    NEWER = "newer"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Filters:
    """Which records to take: those that equal every field given.

    Attributes:
        device: any part of the device's model, in either case.
        prefix: start of the digest of the record or of its key.
    """

    device: str | None = None
    backend: str | None = None
    template: str | None = None
    dtype: str | None = None
    status: Status | None = None
    run_id: str | None = None
    prefix: str | None = None


def put_key(session: Session, key: RecordKey) -> int:
    """Return the row id of `key`, adding it where it is new."""
    digest = key.digest
    row = {
        "digest": digest,
        "json": canonical_json(key.to_json()),
        "device": key.device.model,
        "backend": key.backend,
        "template": key.template,
        "dtype": key.workload.dtype,
    }
    session.execute(insert(KeyRow).values(row).on_conflict_do_nothing(index_elements=["digest"]))
    return session.scalars(select(KeyRow.id).where(KeyRow.digest == digest)).one()


def put_record(session: Session, record: Record) -> Added:
    """Keep `record` unless a newer one of its key and schedule is there.

    Of two records of one moment the larger digest stays, so that databases merge to the same in any order.
    """
    key_id = put_key(session, record.key)
    here = and_(RecordRow.key_id == key_id, RecordRow.schedule == record.schedule)
    old = session.execute(select(RecordRow.measured_at, RecordRow.digest).where(here)).one_or_none()
    new = (record.measured_at, record.digest)
    if old is not None and new <= (old.measured_at, old.digest):
        return Added.DUPLICATE
    row = {name: getattr(record, name) for name in _MEASURES} | {
        "key_id": key_id,
        "digest": record.digest,
        "schedule": record.schedule,
        "status": str(record.status),
    }
    statement = insert(RecordRow).values(row)
    newer = tuple_(RecordRow.measured_at, RecordRow.digest) < tuple_(*new)
    session.execute(
        statement.on_conflict_do_update(index_elements=["key_id", "schedule"], set_=row, where=newer)
    )
    return Added.NEW if old is None else Added.NEWER


def drop_claim(session: Session, key: RecordKey, schedule: str) -> None:
    """Forget the claim on a candidate, and how often it killed its process."""
    key_id = select(KeyRow.id).where(KeyRow.digest == key.digest).scalar_subquery()
    session.execute(delete(ClaimRow).where(ClaimRow.key_id == key_id, ClaimRow.schedule == schedule))


def find_claim(session: Session, key: RecordKey, schedule: str) -> ClaimRow | None:
    """Return the claim on a candidate, to be changed in this transaction."""
    query = select(ClaimRow).join(KeyRow, KeyRow.id == ClaimRow.key_id)
    return session.scalars(query.where(*conditions(key), ClaimRow.schedule == schedule)).one_or_none()


def select_records(where: RecordKey | Filters) -> Select[RecordRow, str]:
    """Return the query for the records of a key or a filter, the fastest of each key first, failures last."""
    query = select(RecordRow, KeyRow.json).join(KeyRow, KeyRow.id == RecordRow.key_id)
    query = query.where(*conditions(where))
    return query.order_by(KeyRow.id, RecordRow.median_us.is_(None), RecordRow.median_us, RecordRow.id)


def conditions(where: RecordKey | Filters) -> Iterator[ColumnElement[bool]]:
    """Yield what the joined rows of records and keys must meet."""
    if isinstance(where, RecordKey):
        yield KeyRow.digest == where.digest
        return
    columns: dict[str, InstrumentedAttribute[str]] = {
        "backend": KeyRow.backend,
        "template": KeyRow.template,
        "dtype": KeyRow.dtype,
        "status": RecordRow.status,
        "run_id": RecordRow.run_id,
    }
    for field in fields(where):
        value = getattr(where, field.name)
        if value is None:
            continue
        if field.name == "device":
            yield KeyRow.device.icontains(value, autoescape=True)
        elif field.name == "prefix":
            yield or_(KeyRow.digest.startswith(value), RecordRow.digest.startswith(value))
        else:
            yield columns[field.name] == str(value)


def read_key(text: str) -> RecordKey:
    """Return the key that a row holds as JSON. Raises: ValueError when it is none."""
    return RecordKey.from_json(json.loads(text))


def read_record(row: RecordRow, key_json: str) -> Record:
    """Return the record of a row.

    Raises:
        ValueError: the row holds what no record can hold.
    """
    measures = {name: getattr(row, name) for name in _MEASURES}
    return Record(key=read_key(key_json), schedule=row.schedule, status=Status(row.status), **measures)
