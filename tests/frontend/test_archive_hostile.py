"""Archives that run code when torch reads or uses them are refused with the reason, and run nothing.

Each attack is also given to torch itself (`trust=True`), which shows that it is one.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from hcompile.errors import UsageError
from hcompile.frontend.archive import load_archive

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
Members = dict[str, bytes]


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.shift = torch.ones(4)

    def forward(self, x: torch.Tensor, mode: str = "plain") -> dict[str, torch.Tensor]:
        return {"y": self.linear(x) + self.shift}


class Touch:
    """Pickles as a call that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Members:
    path = tmp_path_factory.mktemp("ordinary") / "model.pt2"
    shapes = {"x": {0: Dim.AUTO}, "mode": None}
    torch.export.save(torch.export.export(Plain(), (torch.randn(3, 4), "plain"), dynamic_shapes=shapes), path)
    with zipfile.ZipFile(path) as file:
        return {name.partition("/")[2]: file.read(name) for name in file.namelist()}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path that is created when the module `module_name(marker)` is imported."""
    marker = tmp_path / "marker"
    (tmp_path / f"{module_name(marker)}.py").write_text(
        f"import pathlib; pathlib.Path({str(marker)!r}).touch()"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return marker


def module_name(marker: Path) -> str:
    # One of its own for each test: a module that was imported before is not run again.
    return f"touching_{marker.parent.name}"


def write(path: Path, members: Members) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(f"model/{name}", content)
    return path


def edited(members: Members, member: str, edit: Callable[[Any], None]) -> Members:
    value = json.loads(members[member])
    edit(value)
    return {**members, member: json.dumps(value).encode()}


def renamed(value: Any, old: str, new: str) -> Any:
    """Return the JSON value with every text `old`, keys too, replaced."""
    if isinstance(value, dict):
        return {renamed(key, old, new): renamed(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item, old, new) for item in value]
    return new if value == old else value


def dumped(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def touching(marker: Path) -> str:
    """Return an expression, without a dot or a double quote, that creates the marker."""
    return f"__import__('{module_name(marker)}')"


def sample_inputs(members: Members, marker: Path) -> Members:
    return {**members, "data/sample_inputs/model.pt": dumped(((Touch(marker),), {}))}


def pickled_weight(members: Members, marker: Path) -> Members:
    def edit(config: Any) -> None:
        config["config"]["linear.weight"]["use_pickle"] = True

    path = json.loads(members[WEIGHTS])["config"]["linear.weight"]["path_name"]
    return {**edited(members, WEIGHTS, edit), f"data/weights/{path}": dumped(Touch(marker))}


def opaque_constant(members: Members, marker: Path) -> Members:
    def edit(config: Any) -> None:
        config["config"]["shift"] |= {"path_name": "opaque_obj_0", "use_pickle": True, "tensor_meta": None}

    return {**edited(members, CONSTANTS, edit), "data/constants/opaque_obj_0": pickle.dumps(Touch(marker))}


def legacy_weights(members: Members, marker: Path) -> Members:
    return {**members, "data/weights/model.pt": dumped({"x": Touch(marker)})}


def legacy_constants(members: Members, marker: Path) -> Members:
    return {**members, "data/constants/model.pt": dumped({"x": Touch(marker)})}


def size_expression(members: Members, marker: Path) -> Members:
    def edit(graph: Any) -> None:
        sizes = graph["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = f"[{touching(marker)}, {sizes[0]['as_expr']['expr_str']}][1]"

    return edited(members, GRAPH, edit)


def guard(members: Members, marker: Path) -> Members:
    def edit(graph: Any) -> None:
        graph["guards_code"].append(f"{touching(marker)} is not None")

    return edited(members, GRAPH, edit)


def input_name(members: Members, marker: Path) -> Members:
    graph = renamed(json.loads(members[GRAPH]), "mode", f"mode={touching(marker)}")
    return {**members, GRAPH: json.dumps(graph).encode()}


def argument_name(members: Members, marker: Path) -> Members:
    def edit(graph: Any) -> None:
        signature = graph["graph_module"]["module_call_graph"][0]["signature"]
        # torch writes the name twice, as a parameter and in a list: the text between them becomes a string.
        signature["forward_arg_names"] = ["x", f"mode={touching(marker)}):\n    ''' #"]

    return edited(members, GRAPH, edit)


def weight_name(members: Members, marker: Path) -> Members:
    evil = f'a", {touching(marker)}), getattr(self, "a'
    for member in (GRAPH, CONSTANTS):
        changed = renamed(json.loads(members[member]), "shift", evil)
        members = {**members, member: json.dumps(changed).encode()}
    return members


def string_input(members: Members, marker: Path) -> Members:
    evil = f"plain' and {touching(marker)} or '"
    graph = renamed(json.loads(members[GRAPH]), "plain", evil)
    inputs = torch.load(io.BytesIO(members["data/sample_inputs/model.pt"]), weights_only=True)
    return {
        **members,
        GRAPH: json.dumps(graph).encode(),
        "data/sample_inputs/model.pt": dumped(((inputs[0][0], evil), {})),
    }


def tree(kind: str, context: Callable[[str], Any]) -> Callable[[Members, Path], Members]:
    """An output type whose context makes torch import a module of the given name."""

    def attack(members: Members, marker: Path) -> Members:
        def edit(graph: Any) -> None:
            signature = graph["graph_module"]["module_call_graph"][0]["signature"]
            leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
            signature["out_spec"] = json.dumps(
                [1, {"type": kind, "context": context(module_name(marker)), "children_spec": [leaf]}]
            )

        return edited(members, GRAPH, edit)

    return attack


enum_key = tree(
    "builtins.dict", lambda name: json.dumps([{"__enum__": True, "fqn": f"{name}:A", "name": "A"}])
)
default_factory = tree(
    "collections.defaultdict",
    lambda name: {"default_factory_module": name, "default_factory_name": "A", "dict_context": ["y"]},
)


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (sample_inputs, "sample_inputs/model.pt is a pickle of more than tensors"),
        (pickled_weight, "linear.weight is stored as a pickle in weight_"),
        (opaque_constant, "shift is stored as an object, not a tensor, in opaque_obj_0"),
        (legacy_weights, "data/weights/model.pt is a pickle"),
        (legacy_constants, "data/constants/model.pt is a pickle"),
        (size_expression, "expr_str: .* is not an expression that torch writes"),
        (guard, "guards_code.0: .* is not an expression that torch writes"),
        (input_name, "paste it into code as a name"),
        (argument_name, "forward_arg_names.1: .* paste it into code as a name"),
        (weight_name, "paste it into code as an attribute"),
        (string_input, "could end the quotes"),
        (enum_key, "out_spec: .* may import modules"),
        (default_factory, "out_spec: .* imports modules by name"),
    ],
)
def test_attack_that_works_on_torch_is_refused_and_runs_nothing(
    ordinary: Members,
    tmp_path: Path,
    marker: Path,
    attack: Callable[[Members, Path], Members],
    reason: str,
) -> None:
    path = write(tmp_path / "evil.pt2", attack(ordinary, marker))

    with pytest.raises(UsageError, match=rf"evil\.pt2: .*{reason}.*--trust") as refusal:
        load_archive(path)
    assert "\n" not in str(refusal.value)
    assert not marker.exists()

    with contextlib.suppress(Exception):  # an attack need not leave a usable model behind
        load_archive(path, trust=True).exported_program.module()(torch.randn(3, 4), "plain")
    assert marker.exists(), "this is no attack on the installed torch: the test shows nothing"


def test_trust_is_not_needed_for_the_archive_that_the_attacks_change(
    ordinary: Members, tmp_path: Path
) -> None:
    loaded = load_archive(write(tmp_path / "model.pt2", ordinary))
    assert loaded.exported_program.module()(torch.randn(7, 4), "plain")["y"].shape == (7, 4)
