"""Reading calibration data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hcompile.errors import UsageError
from hcompile.policy.sources import STDLIB, read_source


def contents(source: str | Path) -> list[object]:
    return [item.read() for item in read_source(str(source))]


def test_a_folder_is_read_recursively_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, text in (("b/one.py", "1"), ("a.md", "2"), ("c.TXT", "3"), ("weights.bin", "no")):
        (tmp_path / name).write_text(text)
    assert contents(tmp_path) == [b"2", b"1", b"3"]


def test_jsonl_gives_one_document_a_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"text": "ä"}) + "\n\n" + json.dumps({"text": "b", "id": 3}) + "\n")
    assert contents(path) == ["ä".encode(), b"b"]


@pytest.mark.parametrize("line", ['{"txt": "a"}', "text", '["text"]', '{"text": 3}'])
def test_a_wrong_line_of_jsonl_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(UsageError, match=r"data\.jsonl:2"):
        read_source(str(path))


def test_safetensors_give_rows_of_named_inputs(tmp_path: Path) -> None:
    path = tmp_path / "inputs.safetensors"
    save_file({"a": torch.arange(6).view(2, 3), "b": torch.ones(2)}, path)
    rows = [item.read() for item in read_source(str(path))]
    assert len(rows) == 2
    assert isinstance(rows[1], dict) and rows[1]["a"].tolist() == [3, 4, 5]


def test_safetensors_of_unequal_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "inputs.safetensors"
    save_file({"a": torch.ones(2, 3), "b": torch.ones(3)}, path)
    with pytest.raises(UsageError, match="same number of rows"):
        read_source(str(path))


def test_damaged_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "inputs.safetensors"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(UsageError, match=r"inputs\.safetensors"):
        read_source(str(path))


def test_binary_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.txt"
    path.write_bytes(b"PK\0\0")
    with pytest.raises(UsageError, match="binary"):
        contents(path)


def test_a_function_of_the_user_gives_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "calib_mine.py").write_text(
        "def texts():\n    return ['a', b'b']\n\ndef wrong():\n    return 'a'\n"
    )
    monkeypatch.chdir(tmp_path)
    assert contents("calib_mine:texts") == [b"a", b"b"]
    with pytest.raises(UsageError, match="returned a str"):
        read_source("calib_mine:wrong")
    with pytest.raises(UsageError, match="not found"):
        read_source("calib_mine:missing")


def test_the_standard_library_leaves_its_tests_out() -> None:
    names = [item.name for item in read_source(STDLIB)]
    assert "ast.py" in names
    assert not [name for name in names if "test" in Path(name).parts]


def test_a_missing_path_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_source(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="holds no text"):
        read_source(str(tmp_path))


def test_no_name_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="names nothing"):
        read_source("")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def texts(:\n", r"its module does not import \(SyntaxError"),
        ("raise RuntimeError('no')\n", r"its module does not import \(RuntimeError: no\)"),
        ("def texts():\n    raise KeyError('gone')\n", r"failed \(KeyError: 'gone'\): mend the function"),
        (
            "def texts():\n    yield 'a'\n    raise OSError('away')\n",
            r"failed \(OSError: away\): mend the function",
        ),
        ("def texts():\n    return []\n", "holds no text"),
    ],
    ids=["syntax", "import", "call", "iteration", "nothing"],
)
def test_a_function_of_the_user_that_fails_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, text: str, message: str
) -> None:
    module = f"failing_source_{request.node.callspec.id}"
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        read_source(f"{module}:texts")
