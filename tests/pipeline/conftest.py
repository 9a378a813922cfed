"""What tests of the whole path share: a small module, and a folder with a tuning database and text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import hcompile
from hcompile.frontend.load import ImportedModel
from hcompile.pipeline.request import OptimizeRequest
from tests.pipeline.reader import LENGTH, Reader, example, request_for, write_texts


@pytest.fixture(scope="module")
def reader() -> Reader:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Reader().eval()


@pytest.fixture(scope="module")
def model(reader: Reader) -> ImportedModel:
    return hcompile.load_module(reader, example(), "reader")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache directory for all tests here, with a tuning database and kernels, and text to calibrate on."""
    folder = tmp_path_factory.mktemp("home")
    write_texts(folder, 80, LENGTH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HCOMPILE_CACHE_DIR", str(folder / "cache"))
        yield folder


@pytest.fixture
def request_of(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OptimizeRequest:
    monkeypatch.setenv("HCOMPILE_CACHE_DIR", str(home / "cache"))
    return request_for(tmp_path / "reader.hcm", home)
