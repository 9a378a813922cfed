"""`hcompile db`: look into the tuning database, and exchange its records with other machines."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hcompile.cli.render import print_json, print_table
from hcompile.errors import UsageError

if TYPE_CHECKING:
    from hcompile.tuning_db.key import RecordKey
    from hcompile.tuning_db.record import Record
    from hcompile.tuning_db.store import TuningDB

STATUSES = ("ok", "wrong", "compile_error", "crash", "timeout", "out_of_memory")

_SHORT = 12  # Digits of a digest in tables: enough to be alone among millions.
_LISTED = ("id", "key", "status", "median", "template", "workload", "device", "measured")
_NUMBERS = ("median", "spread", "n", "error")
_SHOWN = ("id", "status", "median", "spread", "n", "error", "schedule", "measured", "run", "message")

Command = TypeVar("Command", bound=Callable[..., Any])


def common_options(command: Command) -> Command:
    """Add --db and --json."""
    place = click.option("--db", "database", metavar="URL", help="Path or URL of another database.")
    as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
    return place(as_json(command))


def filter_options(command: Command) -> Command:
    """Add one option for each field that records can be filtered by."""
    options = (
        click.option("--device", metavar="TEXT", help="Only devices whose model holds TEXT."),
        click.option("--backend", metavar="NAME", help="Only this code generator."),
        click.option("--template", metavar="NAME", help="Only this kernel template."),
        click.option("--dtype", metavar="NAME", help="Only this dtype."),
        click.option("--status", type=click.Choice(STATUSES), help="Only candidates that ended so."),
        click.option("--run", "run_id", metavar="ID", help="Only what this run measured."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def db() -> None:
    """Look into the tuning database, and exchange its records."""


@db.command("list")
@common_options
@filter_options
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Show no more than this."
)
def list_records(database: str | None, as_json: bool, limit: int, **filters: str | None) -> None:
    """List records, the fastest of each key first."""
    where = _filters(**filters)
    with _open_existing(database) as store:
        records, total, name = store.records(where, limit=limit), store.count(where), store.name
    if as_json:
        print_json({"database": name, "total": total, "records": list(map(_record_json, records))})
        return
    if records:
        _print_table(records, _LISTED)
    click.echo(f"{len(records)} of {total} records in {name}", err=True)


@db.command()
@common_options
@click.argument("key_or_id")
def show(database: str | None, as_json: bool, key_or_id: str) -> None:
    """Show the records of one ID or KEY.

    KEY_OR_ID is what `hcompile db list` prints, or at least its first 4 digits.
    """
    if not re.fullmatch(r"[0-9a-f]{4,64}", key_or_id):
        raise UsageError(
            f"{key_or_id!r} is no id or key: give 4 to 64 hex digits, as `hcompile db list` prints"
        )
    with _open_existing(database) as store:
        records, name = store.records(_filters(prefix=key_or_id)), store.name
    if not records:
        raise UsageError(f"no record or key in {name} starts with {key_or_id}: see `hcompile db list`")
    if as_json:
        print_json({"database": name, "records": list(map(_record_json, records))})
        return
    for key, group in groupby(records, key=lambda record: record.key):
        click.echo(_describe(key))
        _print_table(group, _SHOWN)


@db.command()
@common_options
@filter_options
@click.argument("file", type=click.Path(path_type=Path))
def export(database: str | None, as_json: bool, file: Path, **filters: str | None) -> None:
    """Write records to FILE.

    The file is JSON lines, with a last line that holds their sha256.
    """
    with _open_existing(database) as store:
        count, name = store.export(file, _filters(**filters)), store.name
    if as_json:
        print_json({"database": name, "file": str(file), "records": count})
    click.echo(f"{count} records of {name} written to {file}", err=True)


@db.command("import")
@common_options
@click.argument("file", type=click.Path(path_type=Path))
def import_records(database: str | None, as_json: bool, file: Path) -> None:
    """Add the records of FILE, an export.

    A damaged or changed file adds none; a record that is no valid value is refused alone, and the exit code is 2 then.
    """
    from hcompile.tuning_db.store import open_db

    with open_db(database) as store:
        report, name = store.import_(file), store.name
    for reason in report.refused:
        click.echo(f"refused: {reason}", err=True)
    if as_json:
        counts = {"added": report.added, "replaced": report.replaced, "duplicate": report.duplicate}
        print_json({"database": name, "file": str(file), **counts, "refused": list(report.refused)})
    click.echo(
        f"{name}: {report.added} added, {report.replaced} replaced older ones, "
        f"{report.duplicate} were there already, {len(report.refused)} refused",
        err=True,
    )
    if report.refused:
        raise UsageError(
            f"import {file}: {len(report.refused)} of its records are no valid values (above); the others were taken, "
            "export these again where they come from"
        )


def _open_existing(database: str | None) -> TuningDB:
    """Open a database that --db names only if it is there: looking into one makes none. The default one is made."""
    from hcompile.tuning_db.location import database_url
    from hcompile.tuning_db.store import open_db

    if database is not None:
        path = str(database_url(database).database)
        if not os.path.exists(path):
            raise UsageError(f"tuning database {path} does not exist: check the path that --db names")
    return open_db(database)


def _filters(status: str | None = None, **others: str | None) -> Any:
    from hcompile.tuning_db.record import Status
    from hcompile.tuning_db.rows import Filters

    return Filters(status=None if status is None else Status(status), **others)


def _record_json(record: Record) -> dict[str, Any]:
    return {"id": record.digest, "key_id": record.key.digest, **record.to_json()}


def _describe(key: RecordKey) -> str:
    device = key.device
    lines = {
        "key": key.digest,
        "workload": key.workload.label(),
        "template": f"{key.template} of {key.backend}, source {key.source_sha256[:_SHORT]}",
        "device": f"{device.model} ({device.isa}), {device.cores} cores, {device.threads} threads, "
        f"{device.memory_class}",
        "versions": ", ".join(f"{library} {version}" for library, version in key.versions),
    }
    return "\n".join(f"{name:<9}{text}" for name, text in lines.items())


def _print_table(records: Iterable[Record], columns: tuple[str, ...]) -> None:
    titles = [f">{column}" if column in _NUMBERS else column for column in columns]
    rows = map(_cells, records)
    print_table(titles, [[cells[column] for column in columns] for cells in rows])


def _cells(record: Record) -> dict[str, str]:
    timed = record.median_us is not None
    values = json.loads(record.schedule)["values"]
    return {
        "id": record.digest[:_SHORT],
        "key": record.key.digest[:_SHORT],
        "status": f"{record.status} (noisy)" if record.noisy else str(record.status),
        "median": f"{record.median_us:.1f} us" if timed else "",
        "spread": f"{record.p20_us:.1f}..{record.p80_us:.1f}" if timed else "",
        "n": str(record.samples) if timed else "",
        "error": "" if record.max_err is None else f"{record.max_err:.1e}",
        "template": record.key.template,
        "workload": record.key.workload.label(),
        "schedule": " ".join(f"{axis}={value}" for axis, value in values.items()),
        "device": record.key.device.model,
        "measured": f"{record.measured_at[:19]}Z",
        "run": record.run_id,
        "message": " ".join(record.message.split()),
    }
