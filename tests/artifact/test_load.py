"""Loading: right results in a fresh process, and one line for everything that is wrong with an artifact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hcompile
from hcompile.artifact.load import TuningWarning, check_files, open_artifact, read_manifest, read_program
from hcompile.artifact.manifest import GRAPH, MANIFEST, SCHEDULES, WEIGHTS
from hcompile.errors import UsageError
from hcompile.policy.certificate import Certificate
from hcompile.program import Program
from hcompile.program_json import program_to_json
from tests.artifact.damage import change_json, change_manifest, copied, replace_file

FIRST_CERTIFICATE = json.loads((Path(__file__).parents[1] / "data" / "certificate-1.json").read_bytes())
"""As the first hcompile wrote it, of one budget."""

FRESH = """
import sys
for name in ("transformers", "xgboost", "scipy"):
    sys.modules[name] = None  # not importable
import torch, hcompile
model = hcompile.load(sys.argv[1])
ids = torch.arange(2 * 40).reshape(2, 40) % 64
torch.save([model(input_ids=ids).logits, model(ids[:, :9]).logits], sys.argv[2])
assert "tvm" not in sys.modules, "TVM is not wanted where the kernels are cached"
assert "hcompile.frontend" not in sys.modules
"""


def test_a_fresh_process_needs_neither_transformers_nor_tvm(
    tiny_hybrid: Program, tiny_program: Program, tiny_artifact: Path, warm_cache: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-W",
        "error::UserWarning:hcompile",
        "-c",
        FRESH,
        str(tiny_artifact),
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": "."}
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    ids = torch.arange(2 * 40).reshape(2, 40) % 64
    long, short = torch.load(tmp_path / "out")
    torch.testing.assert_close(long, tiny_hybrid.run(ids, torch.ones_like(ids))[0], rtol=1e-4, atol=1e-5)
    wanted = tiny_program.run(ids[:, :9], torch.ones_like(ids[:, :9]))[0]
    torch.testing.assert_close(short, wanted, rtol=1e-4, atol=1e-5)


def test_what_was_written_is_read(tiny_hybrid: Program, tiny_artifact: Path) -> None:
    program, original = read_program(tiny_artifact, read_manifest(tiny_artifact))
    assert original is None
    assert program_to_json(program) == program_to_json(tiny_hybrid)
    assert all(torch.equal(program.tensors[name], tensor) for name, tensor in tiny_hybrid.tensors.items())


def test_tied_weights_are_stored_once(tiny_artifact: Path, tiny_hybrid: Program) -> None:
    pointers = {tensor.data_ptr() for tensor in tiny_hybrid.tensors.values()}
    assert len(tiny_hybrid.tensors) - len(read_manifest(tiny_artifact).aliases) == len(pointers)


@pytest.mark.usefixtures("warm_cache")
def test_on_its_own_machine_it_loads_without_a_warning(tiny_artifact: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = open_artifact(tiny_artifact)
    assert opened.limits == (1, 512) and opened.batch_limits == (1, None)
    assert [tuple(value.shape) for value in opened.inputs(7, batch=2)] == [(2, 7), (2, 7)]


@pytest.mark.usefixtures("warm_cache")
def test_on_its_machine_with_other_threads_it_says_what_differs(tiny_artifact: Path, tmp_path: Path) -> None:
    artifact = copied(tiny_artifact, tmp_path)
    made_on = read_manifest(artifact).device
    assert made_on is not None
    change_manifest(artifact, device={**made_on, "threads": 77})
    told = rf"tuned with threads 77, running with threads {made_on['threads']} on .* with safe schedules"
    with pytest.warns(TuningWarning, match=told):
        open_artifact(artifact)


@pytest.mark.usefixtures("warm_cache")
@pytest.mark.parametrize("device", [None, {"model": "Another CPU"}])
def test_on_another_machine_it_takes_safe_schedules_and_says_so(
    tiny_artifact: Path, tiny_hybrid: Program, tmp_path: Path, device: Any
) -> None:
    artifact = copied(tiny_artifact, tmp_path)
    change_manifest(artifact, device=device, linear_library="onednn")
    wanted = "no machine" if device is None else "Another CPU"
    with pytest.warns(
        TuningWarning, match=rf"tuned on {wanted}, running on .* with safe schedules; `hcompile tune"
    ):
        opened = open_artifact(artifact)
    assert opened.linear_library == "default"
    ids = torch.arange(40).reshape(1, 40) % 64
    wanted_logits = tiny_hybrid.run(ids, torch.ones_like(ids))[0]
    torch.testing.assert_close(opened.module(ids).logits, wanted_logits, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("warm_cache")
def test_schedules_that_this_version_cannot_build_give_way_to_safe_ones(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    artifact = copied(tiny_artifact, tmp_path)

    def older_axes(document: Any) -> None:
        for table in document.values():
            table[0]["schedule"]["values"] = {"unroll": 4}

    change_json(artifact, SCHEDULES, older_axes)
    with pytest.warns(TuningWarning, match="its schedules do not build here"):
        hcompile.load(artifact)


@pytest.mark.usefixtures("warm_cache")
def test_files_that_are_not_its_own_are_left_alone(tiny_artifact: Path, tmp_path: Path) -> None:
    artifact = copied(tiny_artifact, tmp_path)
    (artifact / "README.txt").write_text("notes")
    hcompile.load(artifact)


@pytest.mark.parametrize("name", [GRAPH, SCHEDULES, WEIGHTS])
def test_a_damaged_file_is_named(tiny_artifact: Path, tmp_path: Path, name: str) -> None:
    artifact = copied(tiny_artifact, tmp_path)
    content = bytearray((artifact / name).read_bytes())
    content[len(content) // 2] ^= 1
    (artifact / name).write_bytes(content)
    with pytest.raises(UsageError, match=rf"{name}: damaged or changed .*; write the artifact again"):
        hcompile.load(artifact)


@pytest.mark.parametrize("name", [GRAPH, SCHEDULES, WEIGHTS])
def test_a_missing_file_is_named(tiny_artifact: Path, tmp_path: Path, name: str) -> None:
    artifact = copied(tiny_artifact, tmp_path)
    (artifact / name).unlink()
    with pytest.raises(UsageError, match=rf"{name}: cannot be read \(No such file or directory\)"):
        check_files(artifact, read_manifest(artifact))


def test_truncated_weights_are_named_even_with_their_hash(tiny_artifact: Path, tmp_path: Path) -> None:
    artifact = copied(tiny_artifact, tmp_path)
    replace_file(artifact, WEIGHTS, (artifact / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"weights.safetensors: the weights cannot be read"):
        hcompile.load(artifact)


@pytest.mark.parametrize("path", ["missing.hcm", "folder", "file"])
def test_what_is_no_artifact_is_said_with_how_to_make_one(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        UsageError, match=r"(no such artifact|no artifact).*; make one with `hcompile optimize MODEL"
    ):
        hcompile.load(tmp_path / path)


MANIFESTS: dict[str, tuple[dict[str, Any], str]] = {
    "newer": ({"schema": 3}, "it is of schema 3, this hcompile reads 1 and 2"),
    "an unknown field": ({"signature": "x"}, "unknown fields"),
    "code for a backend": ({"backend": "antigravity:fly"}, "is not one of hcompile's own"),
    "a backend that does not exist": ({"backend": "vulkan"}, "kernel backend 'vulkan' is unknown"),
    "an unknown linear library": ({"linear_library": "blas"}, "linear library 'blas' is unknown"),
    "no axis": ({"length_axis": [0, 7]}, r"length_axis \[0, 7\] is no axis of an input"),
    "an axis before the first": ({"length_axis": [-1, 1]}, "length_axis is -1"),
    "an axis of text": ({"length_axis": "01"}, "length_axis is '0'"),
    "an axis too many": ({"length_axis": [0, 1, 2]}, "cannot be used"),
    "a file elsewhere": ({"files": {"../graph.json": "0" * 64}}, "an artifact holds"),
    "no hash": ({"files": {GRAPH: "", SCHEDULES: "", WEIGHTS: ""}}, "wanted the 64 hex digits of a sha256"),
    "no crossover": ({"crossover": {}}, "crossover: missing fields"),
    "a crossover of text": ({"crossover": {"hybrid_from": "32", "timings": []}}, "hybrid_from is '32'"),
    "a crossover of no batch": (
        {"crossover": {"hybrid_from": {"a": 1}, "timings": []}},
        "of hybrid_from is 'a'",
    ),
    "aliases of nothing": ({"aliases": {"a": "no_such_tensor"}}, "the weights cannot be read"),
    "aliases of numbers": ({"aliases": {"a": 3}}, "tensor that a stands for is 3"),
    "a device of text": ({"device": "cpu"}, "device is 'cpu', wanted an object"),
    "no certificate": ({"certificate": 0.1}, "certificate is 0.1, wanted an object"),
    "a certificate of nothing": ({"certificate": {}}, "a certificate is an object of schema 1, 2, 3 or 4"),
    "a certificate with a changed verdict": (
        {"certificate": {**FIRST_CERTIFICATE, "holds": False}},
        "the certificate says holds=False, its figures say True",
    ),
}


INSPECT = """
import sys
sys.modules["torch"] = None  # not importable
from hcompile.pipeline.inspect import inspect
print(inspect(sys.argv[1]).artifact["certificate"])
"""


def test_a_certificate_of_the_first_schema_is_brought_to_todays_form(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    artifact = copied(tiny_artifact, tmp_path)
    change_manifest(artifact, certificate=FIRST_CERTIFICATE)
    found = read_manifest(artifact).certificate
    assert found == Certificate.from_json(FIRST_CERTIFICATE).to_json()
    assert [claim["metric"] for claim in found["claims"]] == ["kl"] and found["holds"]
    done = subprocess.run(
        [sys.executable, "-c", INSPECT, str(artifact)], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{found}\n"


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_that_cannot_be_used_is_refused_in_one_line(
    tiny_artifact: Path, tmp_path: Path, case: str
) -> None:
    values, message = MANIFESTS[case]
    artifact = copied(tiny_artifact, tmp_path)
    change_manifest(artifact, **values)
    with pytest.raises(UsageError, match=message) as caught:
        hcompile.load(artifact)
    assert "\n" not in str(caught.value)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"schema": 1}'])
@pytest.mark.parametrize("name", [MANIFEST, GRAPH, SCHEDULES])
def test_json_of_another_kind_is_refused_in_one_line(
    tiny_artifact: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    artifact = copied(tiny_artifact, tmp_path)
    if name == MANIFEST:
        (artifact / name).write_bytes(content)
    else:
        replace_file(artifact, name, content)
    with pytest.raises(UsageError) as caught:
        hcompile.load(artifact)
    assert "\n" not in str(caught.value) and "write the artifact again" in str(caught.value)


def forbidden_operator(document: Any) -> None:
    document["nodes"][-2]["target"] = "aten.from_file.default"


def no_plan(document: Any) -> None:
    document["plan"] = None


def guard_without_original(document: Any) -> None:
    document["guards"] = [{"kind": "binary", "input": "attention_mask"}]


def unknown_site(document: Any) -> None:
    document["elsewhere"] = next(iter(document.values()))


def no_schedule(document: Any) -> None:
    next(iter(document.values())).clear()


CONTENTS: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "an operator that opens files": (GRAPH, forbidden_operator, "the graph calls aten.from_file.default"),
    "no plan": (GRAPH, no_plan, "graph.json: it holds no plan"),
    "guards without a way out": (
        GRAPH,
        guard_without_original,
        "its guards want original.json, which is missing",
    ),
    "schedules of no site": (SCHEDULES, unknown_site, "schedules of 'elsewhere', which is no site"),
    "an empty table": (SCHEDULES, no_schedule, "a schedule table wants rising lengths"),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_content_that_may_not_be_loaded_is_refused(tiny_artifact: Path, tmp_path: Path, case: str) -> None:
    name, change, message = CONTENTS[case]
    artifact = copied(tiny_artifact, tmp_path)
    change_json(artifact, name, change)
    with pytest.raises(UsageError, match=message) as caught:
        hcompile.load(artifact)
    assert "\n" not in str(caught.value)


def test_the_manifest_is_read_without_torch(tiny_artifact: Path) -> None:
    code = (
        "import sys\nfrom hcompile.artifact.load import check_files, read_manifest, read_stored\n"
        "manifest = read_manifest(sys.argv[1]); check_files(sys.argv[1], manifest); read_stored(sys.argv[1])\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_artifact)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert done.returncode == 0, done.stderr


def test_manifest_json_is_for_people_too(tiny_artifact: Path) -> None:
    document = json.loads((tiny_artifact / MANIFEST).read_text())
    assert document["schema"] == 2 and document["source"] == "tiny"
    assert read_manifest(tiny_artifact).to_json() == {
        **document,
        "length_axis": tuple(document["length_axis"]),
    }
