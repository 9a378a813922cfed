"""What every test shares: a cache directory of its own, and one small model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from hcompile.program import Program
    from hcompile.runtime.module import CompiledModule, Lowered

# First examples load torch and compile; a slow one is no failure.
settings.register_profile("hcompile", deadline=None)
settings.load_profile("hcompile")


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point HCOMPILE_CACHE_DIR at an empty folder and return it."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HCOMPILE_CACHE_DIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_llama() -> LlamaForCausalLM:
    """A random model: 2 layers, 4 query heads of 8 on 2 KV heads, 64 ids, at most 512 tokens."""
    import torch

    from tests.tiny_models import tiny_llama_model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny_llama_model(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
        )


@pytest.fixture(scope="session")
def tiny_program(tiny_llama: LlamaForCausalLM) -> Program:
    """The raised program of `tiny_llama`; imported once, so no test may change it."""
    from hcompile.frontend.transformers_folder import import_model

    return import_model(tiny_llama, "tiny")


@pytest.fixture(scope="session")
def tiny_hybrid(tiny_program: Program) -> Program:
    """`tiny_program` with a plan that mixes dense and local heads in every node."""
    from hcompile.passes.select import select
    from hcompile.patterns import Dense, Local
    from hcompile.plan import Plan

    heads = (Dense(), Local(8, 2), Local(16, 0), Local(1, 1))
    return select(tiny_program, Plan.of({site.name: heads for site in tiny_program.sites}))


@pytest.fixture(scope="session")
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory in which the kernels of `tiny_lowered` are built."""
    return tmp_path_factory.mktemp("kernel-cache")


@pytest.fixture
def warm_cache(tiny_lowered: Lowered, kernel_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let this test use the kernels that other tests have built."""
    monkeypatch.setenv("HCOMPILE_CACHE_DIR", str(kernel_cache))
    return kernel_cache


@pytest.fixture(scope="session")
def tiny_lowered(tiny_hybrid: Program, kernel_cache: Path) -> Lowered:
    """`tiny_hybrid` with safe schedules; each graph compiles once for all tests."""
    from hcompile.runtime.dispatch import safe_tables
    from hcompile.runtime.module import Lowered

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HCOMPILE_CACHE_DIR", str(kernel_cache))
        tables = safe_tables(tiny_hybrid, "tvm_cpu")
        return Lowered.of(tiny_hybrid, None, tables, "tvm_cpu", "default")


@pytest.fixture(scope="session")
def tiny_module(tiny_hybrid: Program, tiny_lowered: Lowered) -> CompiledModule:
    """The compiled module of `tiny_hybrid`: hybrid from 32 tokens on."""
    from hcompile.runtime.crossover import Crossover
    from hcompile.runtime.inputs import length_axis
    from hcompile.runtime.module import CompiledModule

    return CompiledModule(tiny_hybrid, tiny_lowered, Crossover.from_length(32), length_axis(tiny_hybrid))


@pytest.fixture(scope="session")
def tiny_artifact(tiny_hybrid: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_hybrid` as an artifact tuned on this machine: hybrid from 32 tokens on. Copy it to change it."""
    from hcompile.artifact.write import write_artifact
    from hcompile.codegen import get_backend
    from hcompile.runtime.crossover import Crossover
    from hcompile.runtime.dispatch import safe_tables
    from hcompile.runtime.inputs import length_axis
    from hcompile.versions import library_versions

    path = tmp_path_factory.mktemp("artifact") / "tiny.hcm"
    facts = {
        "versions": library_versions(),
        "source": "tiny",
        "kind": "transformers",
        "dtype": "float32",
        "backend": "tvm_cpu",
        "device": get_backend("tvm_cpu").device().to_json(),
        "linear_library": "default",
        "length_axis": length_axis(tiny_hybrid),
        "crossover": Crossover.from_length(32).to_json(),
        "certificate": None,
        "notes": {},
    }
    write_artifact(path, tiny_hybrid, None, safe_tables(tiny_hybrid, "tvm_cpu"), facts)
    return path
