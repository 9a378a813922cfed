"""Archives that torch.export.save wrote load without a flag and behave as the model they were exported from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from hcompile.errors import UsageError
from hcompile.frontend.archive import load_archive


class Mixed(nn.Module):
    """Tied weights, buffers of several kinds, a constant, nested inputs and outputs, sizes that are computed."""

    window: torch.Tensor
    empty: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.layers = nn.ModuleDict({"a-b": nn.Linear(4, 4).to(torch.bfloat16)})
        self.register_buffer("window", torch.arange(6.0)[1:5])
        self.register_buffer("empty", torch.zeros(0, 4), persistent=False)
        self.mask = torch.tensor([True, False, True, True])

    def forward(self, x: torch.Tensor, others: dict[str, Any], *, mode: str = "plain") -> dict[str, Any]:
        y = others["pair"][0]
        z = self.second(self.first(x)) + self.layers["a-b"](x.to(torch.bfloat16)).float()
        joined = torch.cat([z[:, ::2], y], 1).masked_fill(self.mask, 0.0) * self.window
        if x.shape[1] % 2 == 0:
            joined = joined + x.shape[1] / y.shape[1]
        with torch.no_grad():
            extra = torch.cat([joined, self.empty.expand(joined.shape[0], 0, 4)], 1)
        return {"joined": joined, "more": (extra, joined.mean())}


def save_mixed(path: Path) -> Mixed:
    model = Mixed().eval()
    inputs = (torch.randn(3, 8, 4), {"pair": [torch.randn(3, 5, 4)]})
    shapes = {"x": {0: Dim.AUTO, 1: Dim.AUTO}, "others": {"pair": [{0: Dim.AUTO, 1: Dim.AUTO}]}, "mode": None}
    program = torch.export.export(model, inputs, {"mode": "plain"}, dynamic_shapes=shapes)
    torch.export.save(program, path)
    return model


@pytest.mark.filterwarnings("ignore:No complete tensor found")
@pytest.mark.parametrize("name", ["model.pt2", "model.pt", "model"])
def test_archive_loads_whatever_its_ending_and_gives_the_models_outputs(tmp_path: Path, name: str) -> None:
    model = save_mixed(tmp_path / name)
    loaded = load_archive(tmp_path / name)
    x, others = torch.randn(5, 12, 4), {"pair": [torch.randn(5, 3, 4)]}
    expected, actual = model(x, others), loaded.exported_program.module()(x, others, mode="plain")
    assert torch.equal(actual["joined"], expected["joined"])
    assert torch.equal(actual["more"][0], expected["more"][0])
    assert loaded.sample_inputs is not None
    assert loaded.sample_inputs[0][0].shape == (3, 8, 4)
    assert loaded.sample_inputs[1] == {"mode": "plain"}


@pytest.mark.filterwarnings("ignore:No complete tensor found")
def test_tied_weights_still_share_memory(tmp_path: Path) -> None:
    save_mixed(tmp_path / "model.pt2")
    weights = load_archive(tmp_path / "model.pt2").exported_program.state_dict
    assert weights["first.weight"].data_ptr() == weights["second.weight"].data_ptr()
    assert weights["layers.a-b.weight"].dtype == torch.bfloat16


def test_length_limit_of_the_export_is_still_enforced(tmp_path: Path) -> None:
    shapes = ({1: Dim("length", max=64)},)
    program = torch.export.export(nn.Linear(4, 4), (torch.randn(2, 8, 4),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "model.pt2")
    module = load_archive(tmp_path / "model.pt2").exported_program.module()
    assert module(torch.randn(2, 64, 4)).shape == (2, 64, 4)
    with pytest.raises(AssertionError, match="<= 64"):
        module(torch.randn(2, 65, 4))


def test_archive_of_todays_torch_has_every_text_field_covered_by_a_rule(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            count: Any = (x > 0).sum().item()
            torch._check(count >= 0)
            torch._check(count <= x.shape[0] * x.shape[1], lambda: "it's too\nmany")
            wide = torch.cond(x.sum() > 0, lambda t: t.sin(), lambda t: t.cos(), (x,))
            return (
                torch.einsum("bi,bj->bij", wide, x).div(2.0, rounding_mode="floor").sum()
                + torch.zeros(count).sum()
            )

    program = torch.export.export(Branches(), (torch.randn(3, 4),), dynamic_shapes=({0: Dim.AUTO},))
    torch.export.save(program, tmp_path / "model.pt2")
    module = load_archive(tmp_path / "model.pt2").exported_program.module()
    x = torch.randn(7, 4)
    assert torch.equal(module(x), Branches()(x))


def test_llama_with_dynamic_batch_and_length_loads_unflagged_without_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, max_position_embeddings=256, use_cache=False,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    ids, mask = torch.randint(0, 64, (2, 16)), torch.ones(2, 16, dtype=torch.int64)
    shapes = {"input_ids": {0: Dim.AUTO, 1: Dim.AUTO}, "attention_mask": {0: Dim.AUTO, 1: Dim.AUTO}}
    program = torch.export.export(
        model, (), {"input_ids": ids, "attention_mask": mask}, dynamic_shapes=shapes, strict=False
    )
    path = tmp_path / "llama.pt2"
    torch.export.save(program, path)

    ids, mask = torch.randint(0, 64, (3, 41)), torch.ones(3, 41, dtype=torch.int64)
    mask[0, :7] = 0
    module = load_archive(path).exported_program.module()
    with torch.no_grad():
        assert torch.equal(
            module(input_ids=ids, attention_mask=mask)["logits"],
            model(input_ids=ids, attention_mask=mask).logits,
        )
    code = (
        "import sys; from hcompile.frontend.archive import load_archive; load_archive(sys.argv[1]); "
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=120)


def test_trusted_archive_is_read_by_torch_itself(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(4, 4), (torch.randn(2, 4),))
    torch.export.save(program, tmp_path / "model.pt")
    loaded = load_archive(tmp_path / "model.pt", trust=True)
    x = torch.randn(2, 4)
    assert torch.equal(loaded.exported_program.module()(x), program.module()(x))
    assert loaded.sample_inputs is not None


def test_archive_without_sample_inputs_loads_without_them(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(4, 4), (torch.randn(2, 4),))
    program.example_inputs = None
    torch.export.save(program, tmp_path / "model.pt2")
    assert load_archive(tmp_path / "model.pt2").sample_inputs is None


def test_custom_operator_is_refused_by_name(tmp_path: Path) -> None:
    with torch.library._scoped_library("hcompile_test_archive", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")

        class Twice(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                result: torch.Tensor = torch.ops.hcompile_test_archive.twice(x)
                return result

        torch.export.save(torch.export.export(Twice(), (torch.randn(2),)), tmp_path / "model.pt2")
    with pytest.raises(UsageError, match=r"hcompile_test_archive\.twice.*not one of torch's own.*--trust"):
        load_archive(tmp_path / "model.pt2")
