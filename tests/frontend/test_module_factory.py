"""Models of the user's own factory: how it is named, called, and given its weights."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from hcompile.errors import UsageError
from hcompile.frontend.module_factory import load_factory

MODELS = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight
    def forward(self, ids):
        return self.head(self.embed(ids))

class Namespace:
    linear = staticmethod(lambda: nn.Linear(2, 3))

tied = Tied
with_kwargs = lambda: (Tied(), {"ids": torch.zeros(1, 2, dtype=torch.int64)})
with_args = lambda: (nn.Linear(2, 3), [torch.ones(1, 2)])
with_tensor = lambda: (nn.Linear(2, 3), torch.ones(1, 2))
with_number = lambda: (nn.Linear(2, 3), 7)
dropout = lambda: nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))
text = lambda: "model"
takes = lambda size: nn.Linear(size, size)
model = nn.Linear(2, 3)
value = 3
"""


@pytest.fixture(autouse=True)
def user_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the working directory, as a user has it; the import path is put back afterwards."""
    (tmp_path / "user_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield "user_models"
    sys.modules.pop("user_models", None)


def refusal(spec: str, weights: Path | None = None) -> str:
    with pytest.raises(UsageError) as error:
        load_factory(spec, weights)
    assert "\n" not in str(error.value)
    return str(error.value)


def saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def test_factory_in_the_working_directory_is_called_and_set_to_evaluation() -> None:
    built = load_factory("user_models:dropout")
    assert isinstance(built.module, nn.Sequential)
    assert not built.module[1].training
    assert built.example_inputs is None


def test_factory_may_be_an_attribute_of_a_class() -> None:
    assert isinstance(load_factory("user_models:Namespace.linear").module, nn.Linear)


@pytest.mark.parametrize(
    ("name", "arguments", "keywords"),
    [("with_kwargs", 0, ["ids"]), ("with_args", 1, []), ("with_tensor", 1, [])],
)
def test_example_comes_back_as_arguments_and_keywords(name: str, arguments: int, keywords: list[str]) -> None:
    built = load_factory(f"user_models:{name}")
    assert built.example_inputs is not None
    args, kwargs = built.example_inputs
    assert (len(args), list(kwargs)) == (arguments, keywords)
    built.module(*args, **kwargs)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("user_models", "not of the form package.module:function"),
        ("user_models:", "not of the form"),
        ("user-models:tied", "not of the form"),
        ("no_such_module:tied", "importing no_such_module failed (ModuleNotFoundError"),
        ("user_models:absent", "user_models has no absent"),
        ("user_models:model", "names a Linear, not a function"),
        ("user_models:value", "names an int, not a function"),
        ("user_models:takes", "the factory failed (TypeError"),
        ("user_models:text", "returned a str: return a torch.nn.Module"),
        ("user_models:with_number", "returned an int as example"),
    ],
)
def test_unusable_factory_says_why(spec: str, reason: str) -> None:
    assert reason in refusal(spec)


def test_module_that_fails_on_import_says_why(tmp_path: Path) -> None:
    (tmp_path / "failing_models.py").write_text("raise OSError('no licence')")
    assert "importing failing_models failed (OSError: no licence)" in refusal("failing_models:tied")


@pytest.mark.parametrize("kind", ["state dict", "safetensors"])
def test_weights_are_loaded(tmp_path: Path, kind: str) -> None:
    weights = {"weight": torch.randn(3, 2), "bias": torch.randn(3)}
    path = tmp_path / "weights"
    if kind == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    module = load_factory("user_models:Namespace.linear", path).module
    assert all(torch.equal(module.state_dict()[name], weight) for name, weight in weights.items())


@pytest.mark.parametrize("kind", ["state dict", "safetensors"])
def test_tied_weights_stay_tied_whether_stored_once_or_twice(tmp_path: Path, kind: str) -> None:
    model: Any = load_factory("user_models:tied").module
    path = tmp_path / "weights"
    if kind == "safetensors":
        save_model(model, str(path))
    else:
        torch.save(model.state_dict(), path)
    loaded: Any = load_factory("user_models:tied", path).module
    assert torch.equal(loaded.embed.weight, model.embed.weight)
    assert loaded.head.weight is loaded.embed.weight


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({"weight": torch.ones(3, 2)}, "lacks bias of the model that user_models:Namespace.linear builds"),
        ({"weight": torch.ones(3, 2), "bias": torch.ones(3), "b": torch.ones(1)}, "holds b, which the model"),
        ({"weight": torch.ones(2, 2), "bias": torch.ones(3)}, "weight [2, 2] instead of [3, 2]"),
        ({"model": {"weight": torch.ones(3, 2)}, "step": 1}, "more than tensors by name (model, step)"),
        ([torch.ones(1)], "holds a list, not a state dict"),
        ({f"w{i}": torch.ones(1) for i in range(9)}, "lacks weight, bias of"),
    ],
)
def test_weights_that_do_not_fit_say_which(tmp_path: Path, weights: Any, reason: str) -> None:
    assert reason in refusal("user_models:Namespace.linear", saved(tmp_path / "weights.pt", weights))


def test_pickled_module_is_not_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.makedirs, (str(marker),)

    path = saved(tmp_path / "weights.pt", {"weight": Touch()})
    assert "is a pickle of os.makedirs, which can run code" in refusal("user_models:Namespace.linear", path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"text", bytes(100), b"PK\3\4" + bytes(50), b"\x80\2.", (8).to_bytes(8, "little") + b"{}      "],
)
def test_file_that_holds_no_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    assert refusal("user_models:Namespace.linear", path).startswith(str(path))


def test_damaged_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.ones(3, 2)}, path)
    path.write_bytes(path.read_bytes()[:-4])
    assert "damaged safetensors" in refusal("user_models:Namespace.linear", path)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    assert "is not a file" in refusal("user_models:tied", tmp_path / "absent.pt")
