"""Archives and the user's own modules become raised programs with their original graph beside them."""

from __future__ import annotations

import io
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hcompile.errors import UsageError
from hcompile.frontend.load import load_model, load_module
from hcompile.guard import Guard

WIDTH = 32


class Layer(nn.Module):
    """Causal self-attention of four heads with padding marked by zeros."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor, marks: Tensor) -> dict[str, Tensor]:
        length = x.shape[1]
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        bias = (1.0 - marks[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        bias = bias.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -torch.inf)
        return {"out": F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)}


def example(batch: int = 2, length: int = 11) -> dict[str, Tensor]:
    x = torch.randn(batch, length, WIDTH, generator=torch.Generator().manual_seed(0))
    return {"x": x, "marks": torch.ones(batch, length, dtype=torch.int64)}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "layer.pt2"
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=128)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        exported = torch.export.export(
            Layer().eval(), (), example(), dynamic_shapes={"x": sizes, "marks": sizes}
        )
        torch.export.save(exported, path)
    return path


def test_an_archive_is_raised_and_keeps_its_original_graph(archive: Path) -> None:
    model = load_model(archive)
    assert (model.kind, model.source) == ("archive", str(archive))
    assert [site.causal for site in model.program.sites] == [True]
    assert model.program.guards == (Guard("binary", "marks"),)
    assert model.original is not None
    assert model.original.sites == ()
    assert {name: tensor.data_ptr() for name, tensor in model.original.tensors.items()}.items() <= {
        name: tensor.data_ptr() for name, tensor in model.program.tensors.items()
    }.items()
    inputs = list(example(3, 20).values())
    inputs[1][0, :6] = 0
    assert torch.allclose(
        model.program.run(*inputs)[0][0, 6:], model.original.run(*inputs)[0][0, 6:], atol=1e-6
    )


def test_an_archives_sample_inputs_are_in_the_order_of_its_inputs(archive: Path) -> None:
    model = load_model(archive)
    samples = dict(zip((spec.name for spec in model.program.inputs), model.sample_inputs, strict=True))
    assert all(torch.equal(samples[name], value) for name, value in example().items())


def test_sample_inputs_that_do_not_fit_the_graph_are_one_line(archive: Path, tmp_path: Path) -> None:
    content, other = io.BytesIO(), tmp_path / "other.pt2"
    torch.save(((), {"x": torch.ones(1), "marks": torch.ones(1)}), content)
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            is_sample = name.endswith("data/sample_inputs/model.pt")
            new.writestr(name, content.getvalue() if is_sample else old.read(name))
    with pytest.raises(UsageError, match=r"other\.pt2: its graph does not take its sample inputs") as caught:
        load_model(other)
    assert "\n" not in str(caught.value)


def test_an_archive_keeps_its_dtype(archive: Path) -> None:
    with pytest.raises(UsageError, match="keeps the dtype it was exported in"):
        load_model(archive, dtype="bfloat16")


def test_a_module_keeps_batch_and_length_dynamic() -> None:
    model = load_module(Layer(), ((), example()), "mine")
    assert (model.kind, model.source) == ("module", "mine")
    assert len(model.program.sites) == 1
    for batch, length in ((1, 1), (5, 40)):
        assert model.program.run(*example(batch, length).values())[0].shape == (batch, length, WIDTH)


def test_sizes_that_a_module_fixes_stay_fixed() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (x + y) @ torch.ones(7, 2)

    model = load_module(Fixed(), ((torch.ones(3, 7), torch.ones(3, 7)), {}))
    assert [spec.shape[1] for spec in model.program.inputs] == [7, 7]
    assert model.program.run(torch.ones(5, 7), torch.ones(5, 7))[0].shape == (5, 2)


def test_samples_are_not_cut_below_what_the_graph_takes() -> None:
    class Late(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            heads = x[:, None]
            return F.scaled_dot_product_attention(heads, heads, heads, is_causal=True)[:, 0, 99]

    model = load_module(Late(), ((example(2, 120)["x"],), {}))
    assert len(model.program.sites) == 1


def test_a_module_without_attention_has_no_site() -> None:
    model = load_module(nn.Linear(WIDTH, WIDTH), ((example()["x"],), {}))
    assert (model.program.sites, model.program.left) == ((), ())


def test_a_module_that_cannot_be_exported_is_one_line() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UsageError, match="mine: the model cannot be exported") as caught:
        load_module(Branches(), ((example()["x"],), {}), "mine")
    assert "\n" not in str(caught.value)


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a module with two factories on the import path and return the file of the model's weights."""
    code = "from tests.frontend.test_load import Layer, example\n\n"
    code += "def layer():\n    return Layer(), example()\n\n\ndef bare():\n    return Layer()\n"
    (tmp_path / "made_by_test_load.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "made_by_test_load", raising=False)
    weights = {name: tensor + 1 for name, tensor in Layer().state_dict().items()}
    torch.save(weights, tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def test_a_factory_is_exported_with_its_example_in_the_wanted_dtype(factory: Path) -> None:
    model = load_model(factory, factory="made_by_test_load:layer", dtype="bfloat16")
    assert model.kind == "module"
    assert [spec.dtype for spec in model.program.inputs] == ["bfloat16", "int64"]
    expected = (Layer().qkv.weight + 1).to(torch.bfloat16)
    assert torch.equal(model.program.tensors["p_qkv_weight"], expected)


def test_a_factory_without_example_inputs_says_what_to_do(factory: Path) -> None:
    with pytest.raises(UsageError, match="gives no example inputs: return the module and a dict of inputs"):
        load_model(factory, factory="made_by_test_load:bare")


def test_a_missing_path_and_an_unknown_dtype_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        load_model(tmp_path / "none")
    with pytest.raises(UsageError, match="dtype 'int8' is unknown: choose one of float32, bfloat16"):
        load_model(tmp_path, dtype="int8")
