"""A key and schedules to measure, and child processes that run code on the same database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hcompile.patterns import Dense, Local
from hcompile.tuning_db.key import Device, RecordKey
from hcompile.tuning_db.record import Record
from hcompile.tuning_db.store import TuningDB, open_db
from hcompile.workload import Workload

ROOT = Path(__file__).parents[2]

StartChild = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def key() -> RecordKey:
    return RecordKey(
        device=Device("cpu", "AMD EPYC 9R14", "znver4", cores=2, threads=2, memory_class="64GiB"),
        versions=(("hcompile.codegen", "1"), ("torch", "2.13.0"), ("tvm", "0.27.0")),
        backend="tvm_cpu",
        template="flash",
        source_sha256="5" * 64,
        workload=Workload.of(
            [Dense(), *[Local(256, 64)] * 7],
            kv_heads=8,
            head_dim=64,
            q_len=8192,
            kv_len=8192,
            causal=True,
            dtype="float32",
        ),
    )


@pytest.fixture
def record(key: RecordKey) -> Record:
    """A right candidate of 100 us, measured at a moment that tests can count from."""
    return Record.from_json(
        {
            "key": key.to_json(),
            "schedule": {"template": "flash", "values": {"block_m": 64}},
            "status": "ok",
            "median_us": 100.0,
            "p20_us": 98.0,
            "p80_us": 105.0,
            "samples": 20,
            "max_err": 1e-6,
            "tolerance": 1e-5,
            "message": "",
            "measured_at": "2026-11-24T06:00:00.000000Z",
            "run_id": "first",
            "noisy": False,
        }
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tuning.sqlite"


@pytest.fixture
def db(path: Path) -> Iterator[TuningDB]:
    with open_db(path) as store:
        yield store


@pytest.fixture
def start_child(path: Path, record: Record) -> Iterator[StartChild]:
    """Start Python code in a process of its own that knows `path`, `record` and its own arguments `args`."""
    children = []
    prelude = (
        "import json, os, signal, sys\n"
        "from dataclasses import replace\n"
        "from hcompile.tuning_db.record import Record, Status\n"
        "from hcompile.tuning_db.store import Claim, open_db\n"
        "path, text, *args = sys.argv[1:]\n"
        "record = Record.from_json(json.loads(text))\n"
    )

    def start(code: str, *args: object) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-c",
            prelude + code,
            str(path),
            json.dumps(record.to_json()),
            *map(str, args),
        ]
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()
