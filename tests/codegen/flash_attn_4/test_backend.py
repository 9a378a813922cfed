"""The backend of FlashAttention-4 where neither it nor a GPU is: what it serves, and how it calls the package."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hcompile.codegen import get_backend, library
from hcompile.codegen.flash_attn_4 import backend as fa4
from hcompile.errors import KernelError
from hcompile.patterns import Dense, Local, Pattern
from hcompile.reference import attention_reference
from hcompile.schedules import Schedule
from hcompile.tuning_db.key import Device
from hcompile.workload import Workload
from tests.codegen.triton_gpu.cases import MIXED, PREFILL, Case, error_of

UNBOUNDED = 2**30
ROUNDING = 2**-7
"""Of bfloat16 weights and outputs, relative to the mean of |V| (tests/codegen/triton_gpu/test_on_gpu.py)."""


def workload(heads: list[Pattern], q_len: int, kv_len: int, **others: Any) -> Workload:
    given: dict[str, Any] = {"kv_heads": 2, "head_dim": 64, "causal": True, "dtype": "bfloat16"} | others
    return Workload.of(heads, q_len=q_len, kv_len=kv_len, **given)


@pytest.fixture
def on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "capability", lambda: 90)


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say that the package is installed."""
    named = {"flash-attn-4": "4.0.0b36", "nvidia-cutlass-dsl": "4.8.1", "torch": "2.11.0"}
    monkeypatch.setattr(fa4, "version", named.__getitem__)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Put the reference in the place of the package's function and of ours, and note how the former was called."""
    calls: list[dict[str, Any]] = []

    def flash_attn_func(q: Any, k: Any, v: Any, **given: Any) -> tuple[torch.Tensor, None]:
        calls.append(given)
        left, right = given["window_size"]
        causal, window = given["causal"], UNBOUNDED if left is None else left + 1
        assert right == (left if left is None or not causal else 0)
        params = torch.tensor([[window, 0]] * q.shape[2], dtype=torch.int32)
        offset = k.shape[1] - q.shape[1]
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        out = attention_reference(q, k, v, None, params, offset, given["softmax_scale"], causal)
        return out.transpose(1, 2), None

    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "flash_attn.cute", SimpleNamespace(flash_attn_func=flash_attn_func))
    monkeypatch.setattr(library, "_ours", lambda *_: attention_reference)
    return calls


def kernel(pack_gqa: int = 1, splits: int = 1) -> Any:
    schedule = Schedule.of("flash_attn_4", {"pack_gqa": pack_gqa, "splits": splits})
    return library.with_ours_behind(fa4.BACKEND.attend(schedule))


def test_it_is_a_member_of_the_target() -> None:
    members = get_backend("cuda").members
    assert get_backend("flash_attn_4") is members[-1] is fa4.BACKEND
    # Torch's and this one are safe for no node: the target never falls back on them.
    with pytest.raises(KernelError, match=r"^flash_attn_4 computes some nodes only: it is safe for none$"):
        members[-1].safe_schedule("bfloat16", 64)


@pytest.mark.usefixtures("on_hopper")
@pytest.mark.skipif(fa4.installed(), reason="the package is there")
def test_without_the_package_it_serves_nothing_and_says_so_in_one_line(tmp_path: Path) -> None:
    dense = workload([Dense()] * 4, 1024, 1024)
    assert not fa4.BACKEND.serves(dense)
    fa4.BACKEND.warm_up()
    path = fa4.BACKEND.build(fa4.BACKEND.space(dense).default(), "bfloat16", 64, tmp_path)
    with pytest.raises(
        KernelError, match=r"^flash-attn-4 cannot be loaded \(No module named .*\): pip install"
    ):
        get_backend("cuda").load(path)


def test_asking_costs_no_import() -> None:
    asked = "from hcompile.codegen.flash_attn_4.backend import installed; installed()"
    loaded = f"{asked}; import sys; sys.exit(any(name in sys.modules for name in ('flash_attn', 'cutlass')))"
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0


@pytest.mark.usefixtures("on_hopper", "versions")
@pytest.mark.parametrize(
    ("of", "served"),
    [
        (workload([Dense()] * 4, 1024, 1024), True),
        (workload([Dense()] * 4, 128, 1024), True),
        (workload([Dense()] * 4, 1024, 128, causal=False), True),
        (workload([Dense(), Dense(), Local(2048, 64), Local(4096)], 1024, 1024), True),
        (workload([Local(512)] * 4, 1024, 1024), True),
        (workload([Local(512)] * 4, 1024, 1024, causal=False, dtype="float16"), True),
        (workload([Local(512)] * 4, 4096, 1024, causal=False), False),
        (workload([Local(512, 64)] * 4, 1024, 1024), False),
        (workload([Dense(), *[Local(512)] * 3], 1024, 1024), False),
        (workload([Local(256), *[Local(512)] * 3], 1024, 1024), False),
        (workload([Dense()] * 4, 1024, 1024, dtype="float32"), False),
    ],
    ids=lambda value: value.label() if isinstance(value, Workload) else None,
)
def test_it_serves_what_one_call_expresses(of: Workload, served: bool) -> None:
    assert fa4.BACKEND.serves(of) == served


@pytest.mark.usefixtures("versions")
@pytest.mark.parametrize(
    ("capability", "served"), [(86, False), (90, True), (100, True), (110, False), (120, False)]
)
def test_it_serves_hopper_and_blackwell(
    monkeypatch: pytest.MonkeyPatch, capability: int, served: bool
) -> None:
    monkeypatch.setattr(library, "capability", lambda: capability)
    assert fa4.BACKEND.serves(workload([Dense()] * 4, 1024, 1024)) == served


@pytest.mark.usefixtures("versions")
def test_records_name_the_versions_of_what_compiles_it(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device("cuda", "any", "sm_90", cores=132, threads=1, memory_class="80GiB")
    monkeypatch.setattr(library, "this_gpu", lambda: device)
    key = fa4.BACKEND.record_key(workload([Dense()] * 4, 1024, 1024))
    named = (("flash-attn-4", "4.0.0b36"), ("nvidia-cutlass-dsl", "4.8.1"), ("torch", "2.11.0"))
    assert (key.backend, key.template, key.versions) == ("flash_attn_4", "flash_attn_4", named)
    assert key.source_sha256 != get_backend("torch_sdpa").kernel_source_hash()


ONE_WINDOW = (Local(40),) * 4


@pytest.mark.parametrize(
    "heads", [(Dense(),) * 4, ONE_WINDOW, (Local(1),) * 4], ids=lambda heads: heads[0].label()
)
@pytest.mark.parametrize(
    "case", [case for case in PREFILL if case.heads == MIXED and not case.mask], ids=lambda case: case.name
)
def test_calls_that_it_expresses_are_right_and_are_its_own(
    called: list[dict[str, Any]], case: Case, heads: tuple[Pattern, ...]
) -> None:
    seed = torch.seed() % 2**32
    error = error_of(kernel(), replace(case, heads=heads), seed, torch.bfloat16, "cpu")
    assert error < ROUNDING, f"seed {seed}"
    assert [each["pack_gqa"] for each in called] == [case.kv_heads < 4]


@pytest.mark.parametrize(
    "case",
    [
        Case("mixed", 150, 150),
        Case("sinks", 150, 150, heads=(Local(40, 5),) * 4),
        Case("padding", 150, 150, heads=ONE_WINDOW, mask="padding"),
    ],
    ids=lambda case: case.name,
)
def test_other_calls_are_ours(called: list[dict[str, Any]], case: Case) -> None:
    seed = torch.seed() % 2**32
    assert error_of(kernel(), case, seed, torch.bfloat16, "cpu") < ROUNDING, f"seed {seed}"
    assert not called


@pytest.mark.parametrize(
    ("causal", "heads", "own"), [(True, Dense(), 0), (False, Local(8), 0), (False, Dense(), 1)]
)
def test_queries_that_are_not_the_last_keys_are_ours_unless_all_see_everything(
    called: list[dict[str, Any]], causal: bool, heads: Pattern, own: int
) -> None:
    q, k, v = (torch.randn(1, 2, length, 16) for length in (5, 20, 20))
    params = torch.tensor([heads.params()] * 2, dtype=torch.int32)
    out = kernel()(q, k, v, None, params, 7, 0.25, causal)
    torch.testing.assert_close(out, attention_reference(q, k, v, None, params, 7, 0.25, causal))
    assert len(called) == own


@pytest.mark.parametrize(("pack_gqa", "splits"), [(0, 1), (1, 0)])
def test_a_schedule_says_how_it_is_called(called: list[dict[str, Any]], pack_gqa: int, splits: int) -> None:
    q, k, v = (torch.randn(1, heads, 9, 16) for heads in (4, 2, 2))
    kernel(pack_gqa, splits)(
        q, k, v, None, torch.tensor([[UNBOUNDED, 0]] * 4, dtype=torch.int32), 0, 0.25, True
    )
    wanted = {"softmax_scale": 0.25, "causal": True, "window_size": (None, None)}
    assert called == [wanted | {"num_splits": splits, "pack_gqa": bool(pack_gqa)}]
