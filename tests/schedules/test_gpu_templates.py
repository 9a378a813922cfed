"""The spaces of the GPU kernels: what is legal fits the device, and tiles are counted as kernels cut them."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import gpu_decode
from hcompile.errors import KernelError
from hcompile.patterns import Dense, Local
from hcompile.reference import visible_pairs
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.space import Space
from hcompile.schedules.template import GpuProblem, get_template
from hcompile.schedules.templates.gpu_tiles import padded_head

TEMPLATES = ("hopper_prefill", "triton_prefill", "triton_decode")
HOPPER, SMALL = (90, 232_448), (86, 101_376)


def space(name: str, head_dim: int = 128, device: tuple[int, int] = HOPPER) -> Space:
    return get_template(name).space(GpuProblem("bfloat16", head_dim, *device))


@pytest.mark.parametrize("head_dim", [64, 96, 128, 256])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_space_has_its_default_and_some_choice(name: str, head_dim: int) -> None:
    legal = list(space(name, head_dim).enumerate())
    assert space(name, head_dim).default() in legal and len(legal) > 1


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("name", ["triton_prefill", "triton_decode"])
def test_portable_kernels_have_a_default_where_shared_memory_is_small(name: str, head_dim: int) -> None:
    assert space(name, head_dim, SMALL).default() in space(name, head_dim, SMALL)


def test_queries_are_not_given_back_twice() -> None:
    assert not any(each["hold_q"] and each["share"] for each in space("hopper_prefill").enumerate())


def test_gpus_that_a_template_is_not_for_are_one_line() -> None:
    with pytest.raises(KernelError, match=r"^no Hopper kernel on sm_86: use triton_prefill$"):
        space("hopper_prefill", device=SMALL)
    for name in ("triton_prefill", "triton_decode"):
        with pytest.raises(KernelError, match=r"kernel for heads of 256 in 16384 shared bytes$"):
            space(name, 256, (75, 16384))


def test_an_early_start_needs_hopper() -> None:
    assert {each["early"] for each in space("triton_decode").enumerate()} == {0, 1}
    assert {each["early"] for each in space("triton_decode", device=SMALL).enumerate()} == {0}


def test_flash_attention_4_is_asked_for_what_it_has_a_kernel_for() -> None:
    def ways(head_dim: int, capability: int) -> list[dict[str, int]]:
        found = space("flash_attn_4", head_dim, (capability, 232_448))
        assert all(Schedule.from_json(each.to_json()) == each for each in found.enumerate())
        return [dict(each.values) for each in found.enumerate()]

    assert ways(128, 90) == ways(192, 90) == [{"pack_gqa": pack, "splits": 1} for pack in (0, 1)]
    assert ways(256, 100) == [{"pack_gqa": pack, "splits": parts} for pack in (0, 1) for parts in (0, 1)]
    with pytest.raises(KernelError, match=r"^no FlashAttention-4 for heads of 192 on sm_100$"):
        ways(192, 100)
    with pytest.raises(KernelError, match=r"^no FlashAttention-4 for sm_86: use triton_prefill$"):
        ways(64, 86)


def test_the_decode_space_is_small_enough_to_be_compiled_whole_and_has_what_was_good() -> None:
    found = space("triton_decode")
    assert len(list(found.enumerate())) <= 200
    good = [values for *_, values in gpu_decode.ROWS] + list(gpu_decode.ONES)
    assert all(Schedule.of("triton_decode", values) in found for values in good)
    assert len(found.starts()) == 3


@pytest.mark.parametrize(("dtype", "head_dim"), [("float32", 128), ("bfloat16", 512), ("bfloat16", 20)])
@pytest.mark.parametrize("name", [*TEMPLATES, "torch_sdpa", "flash_attn_4"])
def test_what_has_no_kernel_is_not_supported(name: str, dtype: str, head_dim: int) -> None:
    assert not get_template(name).supports(dtype, head_dim)


def test_heads_are_computed_in_powers_of_two() -> None:
    assert [padded_head(size) for size in (16, 64, 96, 128, 160)] == [16, 64, 128, 128, 256]


@given(
    window=st.integers(1, 400),
    sinks=st.integers(0, 100),
    q_len=st.integers(1, 300),
    before=st.integers(0, 300),
    causal=st.booleans(),
    rows=st.sampled_from([64, 128]),
    keys=st.sampled_from([32, 64, 128]),
)
def test_tiles_are_counted_as_whole_blocks_over_the_keys_that_some_row_sees(
    window: int, sinks: int, q_len: int, before: int, causal: bool, rows: int, keys: int
) -> None:
    schedule = Schedule.of("triton_prefill", {"rows": rows, "keys": keys, "warps": 4, "stages": 2})
    pattern, kv_len = Local(window, sinks), q_len + before
    counted = get_template("triton_prefill").tile_pairs(schedule, pattern, q_len, kv_len, causal=causal)
    params = torch.tensor([pattern.params()], dtype=torch.int32)
    wanted = 0
    for first in range(before, kv_len, rows):
        positions = torch.arange(first, min(first + rows, kv_len))
        seen = visible_pairs(params, positions, kv_len, None, causal)[0, 0].any(0).tolist()
        runs = [len(list(run)) for there, run in itertools.groupby(seen) if there]
        wanted += rows * sum(-(-run // keys) * keys for run in runs)
    assert counted == wanted


def test_tiles_of_a_window_by_hand() -> None:
    schedule = space("hopper_prefill").default()
    count = get_template("hopper_prefill").tile_pairs
    # The last tile of 128 rows sees 1023 + 128 keys of its window in 9 blocks of 128, and the sinks in one.
    last = count(schedule, Local(1024, 128), 128, 4096, causal=True)
    assert last == 128 * 128 * 10
    assert count(schedule, Dense(), 128, 4096, causal=True) == 128 * 4096


def test_a_decode_tile_holds_all_queries() -> None:
    schedule = space("triton_decode").default()
    count = get_template("triton_decode").tile_pairs
    assert count(schedule, Dense(), 1, 1000, causal=True) == 1024
    assert count(schedule, Local(100, 4), 3, 1000, causal=True) == 3 * (128 + 128)
