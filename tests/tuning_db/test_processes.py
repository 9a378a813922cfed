"""Several processes on one database, and processes that are killed at every statement and commit."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

from hcompile.tuning_db.record import Record
from hcompile.tuning_db.result import ResultKey
from hcompile.tuning_db.store import open_db
from hcompile.values import canonical_json

PROCESSES = 6
RECORDS = 25

WORK_ALONGSIDE = """
me = int(args[0])
schedule = lambda size: json.dumps({"template": "flash", "values": {"block_m": size}}, separators=(",", ":"))
print("ready", flush=True)
sys.stdin.readline()
granted = 0
with open_db(path) as db:
    for number in range(RECORDS):
        db.add(replace(record, schedule=schedule(1000 * (me + 1) + number)))
        db.add(replace(record, measured_at=f"2026-11-24T06:{number:02}:{me:02}.000000Z"))
        granted += db.claim(record.key, schedule(number), run_id="r") is Claim.GRANTED
    print(granted, flush=True)
    sys.stdin.readline()  # Claims are held until everyone has asked for them.
""".replace("RECORDS", str(RECORDS))

KILL_EVERYWHERE = """
from hcompile.tuning_db.result import ResultKey
from sqlalchemy import Engine, event

step, last_step = 0, None

def count(*_):
    global step
    step += 1
    if step == last_step:
        os.kill(os.getpid(), signal.SIGKILL)

def work(path):
    with open_db(path) as db:
        db.claim(record.key, record.schedule, run_id="r")
        db.add(record)
        db.put_result(ResultKey.of("k", weights_sha256="1" * 64, data_sha256="2" * 64, code_sha256="3" * 64), [1])
        db.import_(args[0])
        db.count()

event.listen(Engine, "before_cursor_execute", count)
event.listen(Engine, "commit", count)
work(path)
steps, step = step, 0
for last_step in range(1, steps + 1):
    child = os.fork()
    if not child:
        work(f"{path}.{last_step}")
        os._exit(1)  # Not killed: the parent sees it.
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, last_step
print(steps)
"""

FORK = """
db = open_db(path)
db.add(record)
child = os.fork()
if not child:
    db.add(replace(record, schedule='{"template":"flash","values":{"block_m":1}}'))
    db.close()
    os._exit(0)
db.claim(record.key, record.schedule, run_id="r")
assert os.waitpid(child, 0)[1] == 0
print(db.count(), db.claim(record.key, record.schedule, run_id="r").value)
"""


def test_processes_that_create_and_write_at_once_lose_nothing(
    path: Path, record: Record, start_child: Any
) -> None:
    children = [start_child(WORK_ALONGSIDE, number) for number in range(PROCESSES)]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    granted = [int(child.stdout.readline()) for child in children]
    errors = [child.communicate("\n")[1] for child in children]
    assert errors == [""] * PROCESSES
    assert sum(granted) == RECORDS
    with open_db(path) as db:
        assert db.count() == PROCESSES * RECORDS + 1
        newest = replace(record, measured_at=f"2026-11-24T06:{RECORDS - 1:02}:{PROCESSES - 1:02}.000000Z")
        assert newest in db.records(record.key)


def test_a_process_killed_at_any_point_leaves_a_whole_database(
    path: Path, record: Record, start_child: Any, tmp_path: Path
) -> None:
    schedules = [canonical_json({"template": "flash", "values": {"block_m": size}}) for size in (1, 2, 3)]
    others = [replace(record, schedule=schedule) for schedule in schedules]
    with open_db(tmp_path / "other.sqlite") as db:
        for other in others:
            db.add(other)
        db.export(tmp_path / "export.jsonl")

    output, errors = start_child(KILL_EVERYWHERE, tmp_path / "export.jsonl").communicate()
    assert errors == ""
    seen = set()
    result = ResultKey.of("k", weights_sha256="1" * 64, data_sha256="2" * 64, code_sha256="3" * 64)
    for step in range(1, int(output) + 1):
        killed = Path(f"{path}.{step}")
        with sqlite3.connect(killed) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        raw.close()
        with open_db(killed) as db:
            kept = db.records()
            assert kept in ([], [record], [record, *others]), f"half an import after step {step}"
            seen.add((len(kept), db.get_result(result) is not None))
            db.add(record)
            db.put_result(result, [1])
            db.import_(tmp_path / "export.jsonl")
            assert db.records() == [record, *others]
    assert seen == {(0, False), (1, False), (1, True), (4, True)}


def test_both_sides_of_a_fork_can_write(start_child: Any) -> None:
    output, errors = start_child(FORK).communicate()
    assert errors == ""
    assert output == "2 busy\n"
