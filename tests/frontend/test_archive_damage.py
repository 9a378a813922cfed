"""Damaged archives, archives of strange shape, and files that are something else: one line, never a crash."""

from __future__ import annotations

import json
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim

from hcompile.errors import HCompileError, UsageError
from hcompile.frontend.archive import load_archive

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
FEW = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "model.pt2"
    program = torch.export.export(nn.Linear(4, 4), (torch.randn(3, 4),), dynamic_shapes=({0: Dim.AUTO},))
    torch.export.save(program, path)
    return path


@pytest.fixture
def members(sound: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(sound) as file:
        return {name: file.read(name) for name in file.namelist()}


def written(path: Path, members: dict[str, bytes], **how: Any) -> Path:
    with zipfile.ZipFile(path, "w", **how) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def refusal(path: Path) -> str:
    """Return the message with which the file is refused."""
    with pytest.raises(UsageError) as error:
        load_archive(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def set_operator(graph: Any, name: str) -> None:
    graph["graph_module"]["graph"]["nodes"][0]["target"] = name


def set_range(graph: Any, name: str) -> None:
    graph["range_constraints"][name] = {"min_val": 0, "max_val": 9}


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda graph: set_operator(graph, "torch.os.system"), "not one of torch's own tensor operators"),
        (
            lambda graph: set_operator(graph, "torch.ops.load_library"),
            "not one of torch's own tensor operators",
        ),
        (
            lambda graph: set_operator(graph, "_operator.attrgetter"),
            "not one of torch's own tensor operators",
        ),
        (
            lambda graph: set_operator(graph, "torch.ops.higher_order.aoti_call_delegate"),
            "not one of torch's own",
        ),
        (
            lambda graph: set_operator(graph, "torch.ops.aten.from_file.default"),
            "no such operator on tensors alone",
        ),
        (
            lambda graph: set_operator(graph, "torch.ops.aten.save.default"),
            "no such operator on tensors alone",
        ),
        (lambda graph: set_operator(graph, "torch.ops.aten.__init__.__globals__"), "no such operator"),
        (lambda graph: set_operator(graph, "torch.ops.aten._unsafe_index_put.default"), "no such operator"),
        (
            lambda graph: set_operator(graph, "torch.ops.hcompile.attention.default"),
            "not one of torch's own tensor operators",
        ),
        (lambda graph: graph.update(verifiers=["ANY"]), "not one of torch's own verifiers"),
        (lambda graph: set_range(graph, "u99999999999"), "not the name of a size"),
        (lambda graph: set_range(graph, "x"), "not the name of a size"),
        (
            lambda graph: graph.update(range_constraints={"s1": {"min_val": "0", "max_val": None}}),
            "'0' is not of type",
        ),
        (lambda graph: graph["graph_module"]["graph"].update(nodes={}), "not of type list"),
        (lambda graph: graph["graph_module"].pop("signature"), "GraphModule lacks signature"),
        (
            lambda graph: graph["graph_module"]["graph"]["outputs"].append({"as_new_kind": 1}),
            "this torch knows no",
        ),
    ],
)
def test_graph_outside_the_schema_or_the_rules_is_refused(
    members: dict[str, bytes], tmp_path: Path, edit: Callable[[Any], None], reason: str
) -> None:
    graph = json.loads(members[f"model/{GRAPH}"])
    edit(graph)
    path = written(tmp_path / "model.pt2", {**members, f"model/{GRAPH}": json.dumps(graph).encode()})
    assert reason in refusal(path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("model/../evil", b"", "leaves the archive"),
        ("/model/evil", b"", "leaves the archive"),
        ("model//evil", b"", "leaves the archive"),
        ("model/a\\b", b"", "leaves the archive"),
        ("other/data", b"", "2 root folders"),
        ("model/data/aotinductor/model/wrapper.so", b"\x7fELF", "compiled code"),
        ("model/models/other.json", b"{}", "instead of models/model.json alone"),
        (f"model/{GRAPH}", b"{", "no JSON"),
        (f"model/{GRAPH}", b"[" * 100_000, "no JSON"),
        (f"model/{GRAPH}", b"\xff", "no JSON"),
        (f"model/{WEIGHTS}", b"[]", "[] is not of type PayloadConfig"),
        ("model/archive_version", b"7", "not version 0 of pt2"),
        ("model/byteorder", b"big", "big-endian"),
        ("model/data/weights/weight_0", b"", "does not hold weight"),
        ("model/data/weights/weight_0", b"123", "does not hold weight"),
    ],
)
def test_strange_member_is_refused_by_name(
    members: dict[str, bytes], tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    assert reason in refusal(written(tmp_path / "model.pt2", {**members, name: content}))


def test_weight_of_a_size_that_is_no_number_is_refused(members: dict[str, bytes], tmp_path: Path) -> None:
    config = json.loads(members[f"model/{WEIGHTS}"])
    config["config"]["weight"]["tensor_meta"]["sizes"][0] = {"as_expr": {"expr_str": "s0", "hint": None}}
    changed = {**members, f"model/{WEIGHTS}": json.dumps(config).encode()}
    assert "does not hold weight as" in refusal(written(tmp_path / "model.pt2", changed))


def test_member_that_is_there_twice_is_refused(members: dict[str, bytes], tmp_path: Path) -> None:
    path = written(tmp_path / "model.pt2", members)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as file:
        file.writestr(f"model/{GRAPH}", members[f"model/{GRAPH}"])
    assert "there twice" in refusal(path)


def test_compressed_archive_is_refused_before_it_is_unpacked(
    members: dict[str, bytes], tmp_path: Path
) -> None:
    bomb = {**members, "model/data/weights/weight_0": bytes(50_000_000)}
    path = written(tmp_path / "model.pt2", bomb, compression=zipfile.ZIP_DEFLATED)
    assert "larger together than the file" in refusal(path)
    path = written(tmp_path / "model.pt2", members, compression=zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(path) or "larger together" in refusal(path)


@pytest.mark.parametrize("name", ["data/weights/weight_0", WEIGHTS, "archive_version"])
def test_missing_member_is_named(members: dict[str, bytes], tmp_path: Path, name: str) -> None:
    del members[f"model/{name}"]
    assert f"{name} is missing" in refusal(written(tmp_path / "model.pt2", members))


def test_changed_weight_fails_its_checksum(sound: Path, members: dict[str, bytes], tmp_path: Path) -> None:
    content = sound.read_bytes()
    weight = members["model/data/weights/weight_0"]
    path = tmp_path / "model.pt2"
    path.write_bytes(content.replace(weight, bytes([weight[0] ^ 1]) + weight[1:]))
    assert "weight_0 cannot be read (BadZipFile: Bad CRC-32" in refusal(path)


def save_state_dict(path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), path)


def save_module(path: Path) -> None:
    torch.save(nn.Linear(2, 2), path)


def save_torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(2)), path)


def save_legacy(path: Path) -> None:
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)


def save_safetensors(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("save", "message"),
    [
        (save_state_dict, "holds a state dict and no graph: pass --model package.module:factory"),
        (save_module, "is a pickle of torch.nn.modules.linear.Linear, which can run code"),
        (save_torchscript, "is a TorchScript archive"),
        (save_legacy, "as torch 1.5 and before wrote it"),
        (save_safetensors, "holds safetensors weights and no graph: pass --model package.module:factory"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "is a Python pickle"),
        (lambda path: path.write_text("def model():\n    pass\n"), "is a text file"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(bytes(range(256)) * 8), "nor weights that are known here"),
        (lambda path: written(path, {"a/manifest.json": b"{}"}), "is a zip file and no export archive"),
        (lambda path: written(path, {"m/data/aotinductor/model/a.so": b""}), "AOTInductor"),
        (lambda path: path.mkdir(), "is a folder: give an archive"),
        (lambda path: None, "does not exist"),
    ],
)
def test_file_of_another_kind_says_which_form_takes_it(
    tmp_path: Path, save: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "model.pt"
    save(path)
    assert message in refusal(path)


def test_folder_of_a_transformers_model_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "pass it as the model itself" in refusal(tmp_path)


def test_cut_off_archive_is_called_damaged(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(sound.read_bytes()[:-100])
    assert "is a damaged zip file" in refusal(path)


def loads_or_is_refused(path: Path) -> None:
    try:
        load_archive(path)
    except HCompileError as error:
        assert "\n" not in str(error)  # noqa: PT017 - that the message is one line is what is asserted


@FEW
@given(length=st.floats(0, 1))
def test_truncation_never_crashes(sound: Path, tmp_path: Path, length: float) -> None:
    content = sound.read_bytes()
    path = tmp_path / "model.pt2"
    path.write_bytes(content[: int(length * len(content))])
    loads_or_is_refused(path)


@FEW
@given(seed=st.integers(0, 2**32), count=st.integers(1, 8), tail=st.booleans())
def test_changed_bytes_never_crash(sound: Path, tmp_path: Path, seed: int, count: int, tail: bool) -> None:
    chosen = random.Random(seed)
    content = bytearray(sound.read_bytes())
    # The directory of a zip file is its tail: changes there reach the reader, others fail a checksum.
    first = len(content) - 1500 if tail else 0
    for _ in range(count):
        content[chosen.randrange(first, len(content))] = chosen.randrange(256)
    path = tmp_path / "model.pt2"
    path.write_bytes(content)
    loads_or_is_refused(path)


@FEW
@given(
    content=st.binary(max_size=300), start=st.sampled_from([b"", b"PK\3\4", b"PK\5\6", b"\x80\2", b"GGUF"])
)
def test_random_files_never_crash(tmp_path: Path, content: bytes, start: bytes) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(start + content)
    loads_or_is_refused(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def change_one(value: Any, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
    """Replace one value somewhere in a JSON document."""
    keys = sorted(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw(st.sampled_from(keys))
    inner = value[key]
    if isinstance(inner, (dict, list)) and inner and draw(st.integers(0, 9)):
        change_one(inner, draw)
    else:
        value[key] = draw(json_values)


@FEW
@given(data=st.data(), member=st.sampled_from([GRAPH, WEIGHTS]))
def test_document_with_one_changed_value_never_crashes(
    members: dict[str, bytes], tmp_path: Path, data: st.DataObject, member: str
) -> None:
    document = json.loads(members[f"model/{member}"])
    change_one(document, data.draw)
    changed = {**members, f"model/{member}": json.dumps(document).encode()}
    loads_or_is_refused(written(tmp_path / "model.pt2", changed))


@FEW
@given(content=st.binary(max_size=200))
def test_random_sample_inputs_never_crash(members: dict[str, bytes], tmp_path: Path, content: bytes) -> None:
    changed = {**members, "model/data/sample_inputs/model.pt": content}
    loads_or_is_refused(written(tmp_path / "model.pt2", changed))
