"""What old measurements depend on."""

from __future__ import annotations

from hcompile.pipeline.memory import code_files


def test_generated_and_compiled_code_counts_too() -> None:
    names = {file.name for file in code_files()}
    assert {"far_field.c", "launcher.c", "vectors.h", "prim_func.py", "far_field.py", "policy.py"} <= names
    assert not names & {"cli.py", "store.py"}
