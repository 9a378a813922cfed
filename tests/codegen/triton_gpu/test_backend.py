"""The backends of the GPU templates where there is no GPU: what they build, refuse, and say of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hcompile.codegen import get_backend
from hcompile.codegen.triton_gpu import ahead
from hcompile.errors import EnvironmentFault, KernelError
from hcompile.patterns import Dense, Local, Pattern, Routed
from hcompile.schedules import Schedule
from hcompile.schedules.templates.hopper_prefill import list_schedule, list_space, reads_lists
from hcompile.workload import Workload


def workload(
    heads: list[Pattern], q_len: int, kv_len: int, *, kv_heads: int = 1, dtype: str = "bfloat16"
) -> Workload:
    return Workload.of(
        heads, kv_heads=kv_heads, head_dim=64, q_len=q_len, kv_len=kv_len, causal=True, dtype=dtype
    )


DENSE = workload([Dense()] * 4, 8192, 8192)
MIXED = workload([Dense(), *[Local(512, 64)] * 3], 8192, 8192)
ROUTED = workload([Dense(), Local(512, 64), *[Routed(300)] * 2], 8192, 8192)
NOTHING = workload([Routed(0)] * 4, 8192, 8192)
STEP = workload([Dense()] * 4, 1, 8192)


On = Callable[[int], None]


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> On:
    """Say that the GPU at hand is of a compute capability, and that FlashAttention-4 is not installed."""
    monkeypatch.setattr("hcompile.codegen.flash_attn_4.backend.installed", lambda: False)

    def is_there(capability: int) -> None:
        for module in ("triton_gpu.backend", "library"):
            monkeypatch.setattr(f"hcompile.codegen.{module}.capability", lambda: capability)

    return is_there


def serving(of: Workload) -> list[str]:
    return [member.name for member in get_backend("cuda").members if member.serves(of)]


@pytest.mark.parametrize(
    ("capability", "of", "names"),
    [
        (90, DENSE, ["hopper_prefill", "torch_sdpa"]),
        (90, MIXED, ["hopper_prefill"]),
        (90, ROUTED, ["hopper_prefill"]),
        (90, NOTHING, ["hopper_prefill"]),
        (80, ROUTED, []),
        (90, workload([Routed(300)] * 4, 1, 8192), []),
        (90, STEP, ["triton_decode"]),
        (80, DENSE, ["triton_prefill", "torch_sdpa"]),
        (80, MIXED, ["triton_prefill"]),
        (90, workload([Dense()] * 4, 64, 64, dtype="float32"), []),
    ],
)
def test_those_compete_that_can_compute_it(on: On, capability: int, of: Workload, names: list[str]) -> None:
    on(capability)
    assert serving(of) == names


def test_routed_heads_are_served_by_tiles_of_lists_on_hopper(on: On) -> None:
    target = get_backend("cuda")
    hopper = next(member for member in target.members if member.name == "hopper_prefill")
    on(90)
    assert target.routes("bfloat16", 64) and not target.routes("float32", 64)
    assert not any(member.routes("bfloat16", 64) for member in target.members if member is not hopper)
    points = list(hopper.space(ROUTED).enumerate())
    assert points and {(each["rows"], each["keys"]) for each in points} == {(128, 64)}
    assert {each["keys"] for each in hopper.space(MIXED).enumerate()} == {64, 128}
    on(80)
    assert not target.routes("bfloat16", 64)
    for member in target.members:
        if member.template.startswith("triton"):
            with pytest.raises(KernelError, match=f"{member.name} serves no routed heads"):
                member.space(ROUTED)


@pytest.mark.parametrize("head_dim", [16, 64, 96, 128, 256])
def test_the_tiles_of_lists_are_legal_for_heads_of_every_size(head_dim: int) -> None:
    space = list_space(ahead.problem_of("bfloat16", head_dim, 90))
    assert space.default() == list_schedule(head_dim) and reads_lists(space.default())


def compiled(monkeypatch: pytest.MonkeyPatch, **demands: int) -> None:
    """Let compiling end with these demands; compiling itself runs in a process of its own (test_ahead)."""
    found = {"shared_bytes": 1024, "registers": 64, "stack_bytes": 0} | demands
    monkeypatch.setattr(ahead, "compile_ahead", lambda *_: ahead.Compiled(b"", "", **found))


def test_a_built_kernel_tells_what_it_takes_and_is_built_once(
    on: On, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(80)
    compiled(monkeypatch, shared_bytes=60_000)
    backend = get_backend("cuda")
    schedule = backend.safe_schedule("bfloat16", 64)
    path = backend.build(schedule, "bfloat16", 64, tmp_path, group=4)
    warps = 2 * schedule["warps"]  # Of two blocks, for which shared memory suffices.
    wanted = {"registers": 64, "stack_bytes": 0, "shared_bytes": 60_000, "resident_warps": warps}
    assert backend.facts(path) == wanted
    before = path.stat().st_mtime_ns
    assert backend.build(schedule, "bfloat16", 64, tmp_path, group=4) == path
    assert path.stat().st_mtime_ns == before
    assert backend.build(schedule, "bfloat16", 64, tmp_path, group=2) != path


def test_what_is_not_of_its_space_is_not_built(on: On, tmp_path: Path) -> None:
    on(90)
    backend = get_backend("cuda")
    default = dict(backend.safe_schedule("bfloat16", 64).values)
    with pytest.raises(KernelError, match="is not legal for bfloat16 heads of 64"):
        backend.build(Schedule.of("hopper_prefill", default | {"stages": 7}), "bfloat16", 64, tmp_path)
    with pytest.raises(KernelError, match="cuda has no template 'elsewhere'"):
        backend.build(Schedule.of("elsewhere", default), "bfloat16", 64, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("demands", "message"),
    [
        ({"shared_bytes": 170_000}, "takes 170000 bytes of shared memory"),
        ({"stack_bytes": 4096}, "spills 4096 bytes"),
    ],
)
def test_a_kernel_that_needs_more_than_there_is_is_not_built(
    on: On, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demands: dict[str, int], message: str
) -> None:
    on(80)
    compiled(monkeypatch, **demands)
    backend = get_backend("cuda")
    with pytest.raises(KernelError, match=message):
        backend.build(backend.safe_schedule("bfloat16", 64), "bfloat16", 64, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "[]", '{"schedule": 1}'])
def test_a_file_that_is_no_kernel_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "triton_prefill-0.json"
    path.write_text(content)
    with pytest.raises(KernelError, match="delete it, it is built again"):
        get_backend("cuda").load(path)
    other = tmp_path / "other-0.json"
    other.write_text(json.dumps({}))
    with pytest.raises(KernelError, match="no kernel of cuda"):
        get_backend("cuda").load(other)


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="a GPU is there")
def test_without_a_gpu_the_target_says_so_in_one_line() -> None:
    with pytest.raises(EnvironmentFault, match=r"target cuda: torch .* finds no NVIDIA GPU"):
        get_backend("cuda").torch_device()
