from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hcompile.tuning_db.owner import FOREIGN_LEASE, Owner
from hcompile.tuning_db.record import Record, Status, utc_now
from hcompile.tuning_db.store import Claim, TuningDB, open_db

CLAIM_AND_WAIT = """
db = open_db(path)
print(db.claim(record.key, record.schedule, run_id="child").value, flush=True)
sys.stdin.read()
db.close()
"""


def claim(db: TuningDB, record: Record) -> Claim:
    return db.claim(record.key, record.schedule, run_id="here")


def die_while_measuring(start_child: Any) -> str:
    """Let a child claim the candidate and kill it; return what the child was answered."""
    child = start_child(CLAIM_AND_WAIT)
    answer: str = child.stdout.readline().strip()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    return answer


def test_a_claimed_candidate_is_busy_for_others(db: TuningDB, record: Record) -> None:
    assert claim(db, record) is Claim.GRANTED
    assert claim(db, record) is Claim.BUSY
    other = replace(record, schedule='{"template":"flash","values":{"block_m":8}}')
    assert claim(db, other) is Claim.GRANTED


def test_a_live_process_holds_its_claim_and_gives_it_back_when_it_ends(
    db: TuningDB, record: Record, start_child: Any
) -> None:
    child = start_child(CLAIM_AND_WAIT)
    assert child.stdout.readline() == "granted\n"
    assert claim(db, record) is Claim.BUSY
    child.communicate()
    assert claim(db, record) is Claim.GRANTED


def test_a_record_ends_the_claim(db: TuningDB, record: Record) -> None:
    claim(db, record)
    db.add(record)
    assert claim(db, record) is Claim.GRANTED


def test_a_released_or_closed_claim_is_no_death(db: TuningDB, record: Record) -> None:
    for _ in range(3):
        assert claim(db, record) is Claim.GRANTED
        db.release(record.key, record.schedule)
    for _ in range(3):
        with open_db(db.name) as other:
            assert claim(other, record) is Claim.GRANTED


def test_a_candidate_that_killed_its_process_twice_is_quarantined(
    db: TuningDB, record: Record, start_child: Any
) -> None:
    assert die_while_measuring(start_child) == "granted"
    assert die_while_measuring(start_child) == "granted"
    assert claim(db, record) is Claim.QUARANTINED
    (kept,) = db.records(record.key)
    assert (kept.status, kept.schedule) == (Status.CRASH, record.schedule)
    assert kept.message == "quarantined: the process that measured it died 2 times"


def test_one_death_allows_another_try_and_a_record_clears_it(
    db: TuningDB, record: Record, start_child: Any
) -> None:
    die_while_measuring(start_child)
    assert claim(db, record) is Claim.GRANTED
    db.add(record)
    die_while_measuring(start_child)
    assert claim(db, record) is Claim.GRANTED


def test_a_death_stays_counted_when_the_next_try_is_given_back(
    db: TuningDB, record: Record, start_child: Any
) -> None:
    die_while_measuring(start_child)
    assert claim(db, record) is Claim.GRANTED
    db.release(record.key, record.schedule)
    assert die_while_measuring(start_child) == "granted"
    assert claim(db, record) is Claim.QUARANTINED


def test_the_claim_of_another_process_is_not_released(db: TuningDB, record: Record, start_child: Any) -> None:
    child = start_child(CLAIM_AND_WAIT)
    child.stdout.readline()
    db.release(record.key, record.schedule)
    assert claim(db, record) is Claim.BUSY


def test_a_process_is_told_from_a_later_one_of_its_number() -> None:
    me, now = Owner.current(), utc_now()
    assert not me.is_dead(now)
    assert replace(me, started="1").is_dead(now)
    assert replace(me, boot_id="an earlier boot").is_dead(now)


def test_a_zombie_is_dead(start_child: Any) -> None:
    child = start_child(
        "from dataclasses import asdict\n"
        "from hcompile.tuning_db.owner import Owner\n"
        "print(json.dumps(asdict(Owner.current())), flush=True)\n"
        "sys.stdin.read()\n"
    )
    owner = Owner(**json.loads(child.stdout.readline()))
    assert not owner.is_dead(utc_now())
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert owner.is_dead(utc_now())


@pytest.mark.parametrize(("age", "dead"), [(FOREIGN_LEASE / 2, False), (FOREIGN_LEASE * 2, True)])
def test_the_claim_of_another_host_ends_with_its_lease(age: timedelta, dead: bool) -> None:
    claimed_at = (datetime.now(UTC) - age).isoformat()
    assert replace(Owner.current(), host="elsewhere").is_dead(claimed_at) is dead
