"""The choice of a library for linears is measured once for a machine and a shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hcompile.codegen import get_backend
from hcompile.pipeline import linear_library as module
from hcompile.pipeline.linear_library import linear_library
from hcompile.program import Program
from hcompile.tuning_db.store import open_db


def test_a_choice_stays_though_it_would_fall_otherwise_the_next_time(
    tiny_program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = get_backend("tvm_cpu").device()
    for library in ("onednn", "default"):
        monkeypatch.setattr(module, "faster_library", lambda weight, library=library: library)
        with open_db(tmp_path / "tuning.sqlite") as db:
            assert linear_library(db, tiny_program, device) == "onednn"


def test_another_machine_and_another_shape_are_measured_anew(
    tiny_program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = get_backend("tvm_cpu").device()
    wider = {name: t.repeat(1, 2) if t.dim() == 2 else t for name, t in tiny_program.tensors.items()}
    with open_db(tmp_path / "tuning.sqlite") as db:
        monkeypatch.setattr(module, "faster_library", lambda weight: "onednn")
        assert linear_library(db, tiny_program, device) == "onednn"
        monkeypatch.setattr(module, "faster_library", lambda weight: "default")
        assert linear_library(db, tiny_program, replace(device, model="another")) == "default"
        assert linear_library(db, tiny_program.replace(tensors=wider), device) == "default"
