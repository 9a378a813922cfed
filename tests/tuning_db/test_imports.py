from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("hcompile.workload", "torch tvm sqlalchemy"),
        ("hcompile.tuning_db.record", "torch tvm sqlalchemy"),
        ("hcompile.tuning_db.result", "torch tvm sqlalchemy"),
        ("hcompile.tuning_db.location", "torch tvm sqlalchemy platformdirs"),
        ("hcompile.tuning_db.store", "torch tvm alembic"),
        ("hcompile.cli.db", "torch tvm sqlalchemy rich"),
    ],
)
def test_a_module_loads_only_what_it_needs(module: str, unwanted: str) -> None:
    code = f"import sys, {module}; print([name for name in {unwanted.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
