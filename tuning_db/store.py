"""The tuning database as the rest of hcompile sees it: records, claims on candidates, and results."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Engine, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Session

from hcompile.errors import EnvironmentFault
from hcompile.tuning_db.exchange import ImportReport, read_export, write_export
from hcompile.tuning_db.faults import database_faults
from hcompile.tuning_db.key import RecordKey
from hcompile.tuning_db.location import database_url, prepare_folder
from hcompile.tuning_db.models import ClaimRow, KeyRow, RecordRow, ResultRow
from hcompile.tuning_db.owner import Owner
from hcompile.tuning_db.record import Record, Status, utc_now
from hcompile.tuning_db.result import ResultKey, pack, unpack
from hcompile.tuning_db.rows import (
    Added,
    Filters,
    conditions,
    drop_claim,
    find_claim,
    put_key,
    put_record,
    read_key,
    read_record,
    select_records,
)
from hcompile.tuning_db.schema import make_engine, migrate

MAX_DEATHS = 2
"""A candidate that was being measured when its process died this often is not tried again."""

QUARANTINED = "quarantined: "
"""How the message of such a candidate's record begins."""


class Claim(Enum):
    """The answer to a claim: measure it, a live process does so, or it killed its process too often."""

    GRANTED = "granted"
    BUSY = "busy"
    QUARANTINED = "quarantined"


def open_db(where: str | Path | None = None) -> TuningDB:
    """Open the tuning database at a path, a URL or the default place; create it where it is missing.

    Raises:
        UsageError: `where` is no path and no URL of a SQLite file.
        EnvironmentFault: the database cannot be made, opened, read or written there.
    """
    url = database_url(where)
    name = str(url.database)
    prepare_folder(Path(name))
    engine = make_engine(url)
    try:
        with database_faults(name):
            migrate(engine, name)
    except BaseException:
        engine.dispose()
        raise
    return TuningDB(engine, name)


class TuningDB:
    """An open tuning database, safe to use from several threads and processes. A context manager.

    Every method is one transaction, and raises EnvironmentFault when the database fails.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self._engine = engine
        self._reading = engine.execution_options(reading=True)
        self._pid = os.getpid()
        self._claimed: set[tuple[RecordKey, str]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the claims that are still held, and close the connections."""
        try:
            for key, schedule in sorted(self._claimed, key=lambda claim: claim[1]):
                self.release(key, schedule)
        finally:
            self._engine.dispose()

    def add(self, record: Record) -> Added:
        """Keep a measurement, in place of an older one of its key and schedule; its claim ends."""
        with self._transaction() as session:
            added = put_record(session, record)
            drop_claim(session, record.key, record.schedule)
        self._claimed.discard((record.key, record.schedule))
        return added

    def best(self, key: RecordKey) -> Record | None:
        """Return the fastest right candidate measured under exactly this key."""
        query = select_records(key).where(RecordRow.status == str(Status.OK)).limit(1)
        with self._transaction(reading=True) as session:
            found = [self._record(row, text) for row, text in session.execute(query)]
        if found and found[0].key != key:
            raise self._damaged(ValueError(f"record {found[0].digest} is under a wrong key"))
        return found[0] if found else None

    def records(self, where: RecordKey | Filters | None = None, *, limit: int | None = None) -> list[Record]:
        """Return the records of a key or a filter, the fastest of each key first and failures last."""
        query = select_records(where or Filters()).limit(limit)
        with self._transaction(reading=True) as session:
            return [self._record(row, text) for row, text in session.execute(query)]

    def count(self, where: RecordKey | Filters | None = None) -> int:
        """Count the records of a key or a filter."""
        query = select(func.count()).select_from(RecordRow).join(KeyRow, KeyRow.id == RecordRow.key_id)
        with self._transaction(reading=True) as session:
            return session.scalars(query.where(*conditions(where or Filters()))).one()

    def alike(self, key: RecordKey, limit: int) -> list[Record]:
        """Return right candidates of other workloads under what else is in `key`, those of the newest keys first."""
        near = (
            KeyRow.device == key.device.model,
            KeyRow.backend == key.backend,
            KeyRow.template == key.template,
        )
        query = select(KeyRow.json).where(*near).order_by(KeyRow.id.desc())
        found: list[Record] = []
        with self._transaction(reading=True) as session:
            for text in session.scalars(query).all():
                other = self._key(text)
                if other.workload == key.workload or replace(other, workload=key.workload) != key:
                    continue
                records = select_records(other).where(RecordRow.status == str(Status.OK))
                rows = session.execute(records.limit(limit - len(found)))
                found += [self._record(row, text) for row, _ in rows]
                if len(found) >= limit:
                    break
        return found

    def claim(self, key: RecordKey, schedule: str, *, run_id: str) -> Claim:
        """Mark a candidate as being measured by this process, before it is launched.

        The claim ends with `add`, `release` or `close`. One that is there when its process is dead counts as
        a death; at `MAX_DEATHS` the candidate gets a record of status crash instead of another try.
        """
        me, now = Owner.current(), utc_now()
        with self._transaction() as session:
            row = find_claim(session, key, schedule)
            if row is None:
                row = ClaimRow(key_id=put_key(session, key), schedule=schedule, deaths=0, held=False)
                session.add(row)
            elif row.held:
                if not Owner(row.host, row.boot_id, row.pid, row.started).is_dead(row.claimed_at):
                    return Claim.BUSY
                row.deaths += 1
            if row.deaths >= MAX_DEATHS:
                message = f"{QUARANTINED}the process that measured it died {row.deaths} times"
                put_record(session, Record.failed(key, schedule, Status.CRASH, message, run_id=run_id))
                session.delete(row)
                return Claim.QUARANTINED
            row.held, row.claimed_at = True, now
            row.host, row.boot_id, row.pid, row.started = me.host, me.boot_id, me.pid, me.started
        self._claimed.add((key, schedule))
        return Claim.GRANTED

    def release(self, key: RecordKey, schedule: str) -> None:
        """Give back this process's claim without a record; earlier deaths stay counted."""
        me = Owner.current()
        with self._transaction() as session:
            row = find_claim(session, key, schedule)
            if row is not None and Owner(row.host, row.boot_id, row.pid, row.started) == me:
                if row.deaths:
                    row.held = False
                else:
                    session.delete(row)
        self._claimed.discard((key, schedule))

    def put_result(self, key: ResultKey, payload: Any) -> None:
        """Keep a JSON value under `key`, in place of an older one."""
        row = {
            "kind": key.kind,
            "weights_sha256": key.weights_sha256,
            "data_sha256": key.data_sha256,
            "code_sha256": key.code_sha256,
            "extra": key.extra,
            "digest": key.digest,
            "payload": pack(payload),
            "stored_at": utc_now(),
        }
        with self._transaction() as session:
            statement = insert(ResultRow).values(row)
            session.execute(statement.on_conflict_do_update(index_elements=["digest"], set_=row))

    def get_result(self, key: ResultKey) -> Any | None:
        """Return the JSON value kept under exactly this key, or None."""
        with self._transaction(reading=True) as session:
            query = select(ResultRow.payload).where(ResultRow.digest == key.digest)
            blob = session.scalars(query).one_or_none()
        if blob is None:
            return None
        try:
            return unpack(blob)
        except ValueError as error:
            raise self._damaged(error) from error

    def export(self, path: str | Path, where: RecordKey | Filters | None = None) -> int:
        """Write the records of a key or a filter to a JSON-lines file and return their number.

        Raises:
            UsageError: something that is no file stands at `path`.
            EnvironmentFault: the file cannot be written; nothing is left of it then.
        """
        query = select_records(where or Filters()).execution_options(yield_per=1000)
        with self._transaction(reading=True) as session:
            return write_export(Path(path), (self._record(row, text) for row, text in session.execute(query)))

    def import_(self, path: str | Path) -> ImportReport:
        """Add the records of an exported file, keyed by their own fields.

        Records that are no valid values are refused one by one; of a damaged file none is added.

        Raises:
            UsageError: the file is missing, no export, cut short or changed.
        """
        counts = dict.fromkeys(Added, 0)
        refused = []
        with self._transaction() as session:
            for line, record in read_export(Path(path)):
                if isinstance(record, Record):
                    counts[put_record(session, record)] += 1
                else:
                    refused.append(f"line {line}: {record}")
        return ImportReport(counts[Added.NEW], counts[Added.NEWER], counts[Added.DUPLICATE], tuple(refused))

    @contextmanager
    def _transaction(self, *, reading: bool = False) -> Iterator[Session]:
        if os.getpid() != self._pid:  # A SQLite connection must not be used on the other side of a fork.
            self._engine.dispose(close=False)
            self._pid = os.getpid()
        engine = self._reading if reading else self._engine
        with database_faults(self.name), Session(engine) as session, session.begin():
            yield session

    def _key(self, text: str) -> RecordKey:
        try:
            return read_key(text)
        except ValueError as error:
            raise self._damaged(error) from error

    def _record(self, row: RecordRow, key_json: str) -> Record:
        try:
            return read_record(row, key_json)
        except ValueError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: ValueError) -> EnvironmentFault:
        return EnvironmentFault(
            f"tuning database {self.name} is damaged ({error}): move it away, its contents can be made again"
        )
