"""Routed selection: exact shares, the fewest blocks that hold a share, and lists as the operator reads them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hcompile.reference import LIST_BLOCK, attention_reference, listed_blocks, visible_pairs
from hcompile.routing import block_shares, choose_blocks, lists_of

DENSE = torch.tensor([[2**30, 0]] * 4, dtype=torch.int32)


def call(q_len: int, kv_len: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def made(heads: int, length: int) -> torch.Tensor:
        return torch.randn(2, heads, length, 16, generator=generator, dtype=torch.float64) * 2

    return made(4, q_len), made(2, kv_len), made(2, kv_len)


def padding(kv_len: int) -> torch.Tensor:
    mask = torch.ones(2, kv_len, dtype=torch.bool)
    mask[0, :70] = False
    mask[1, -9:] = False
    return mask


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(("q_len", "kv_len"), [(200, 200), (1100, 1100), (70, 300), (64, 128)])
def test_shares_of_all_keys_are_those_of_the_attention(
    q_len: int, kv_len: int, padded: bool, causal: bool
) -> None:
    q, k, _ = call(q_len, kv_len)
    mask = padding(kv_len) if padded else None
    offset = kv_len - q_len
    found = block_shares(q, k, mask, offset, 0.3, causal)
    seen = visible_pairs(DENSE, torch.arange(q_len) + offset, kv_len, mask, causal)
    scores = (q @ k.repeat_interleave(2, 1).transpose(2, 3) * 0.3).masked_fill(~seen, float("-inf"))
    weights = scores.softmax(-1).nan_to_num(0.0)
    for query in range(found.shape[2]):
        for key in range(found.shape[3]):
            rows = slice(query * LIST_BLOCK, min((query + 1) * LIST_BLOCK, q_len))
            wanted = weights[:, :, rows, key * LIST_BLOCK : (key + 1) * LIST_BLOCK].sum(-1).mean(-1)
            torch.testing.assert_close(found[:, :, query, key], wanted)


def test_sampled_shares_add_up_to_the_queries_that_see_a_sampled_key() -> None:
    q, k, _ = call(300, 300)
    found = block_shares(q, k, None, 0, 0.3, True, every_key=16)
    # Queries 0 to 7 see no sampled key: those are 8, 24, ...
    torch.testing.assert_close(found.sum(-1)[:, :, 0], torch.full((2, 4), 56 / 64, dtype=torch.float64))
    torch.testing.assert_close(found.sum(-1)[:, :, 1:], torch.ones(2, 4, 4, dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(0, 200),
    st.floats(0, 1),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_the_fewest_blocks_that_hold_a_share_are_chosen(
    q_len: int, before: int, share: float, causal: bool, padded: bool, seed: int
) -> None:
    kv_len = q_len + before
    q, k, _ = call(q_len, kv_len, seed)
    mask = torch.rand(2, kv_len, generator=torch.Generator().manual_seed(seed)) < 0.7 if padded else None
    shares = block_shares(q, k, mask, before, 0.3, causal)
    chosen = choose_blocks(shares, share, mask, before, q_len, kv_len, causal)
    always = choose_blocks(torch.zeros_like(shares), 0.0, mask, before, q_len, kv_len, causal)
    assert bool((chosen | ~always).all())
    held = (shares * chosen).sum(-1)
    assert bool((held >= share * shares.sum(-1) - 1e-9).all())
    # Without its least block, what was chosen beyond those always read would hold too little.
    extra = chosen & ~always
    least = shares.masked_fill(~extra, float("inf")).amin(-1)
    too_little = (shares * extra).sum(-1) - least < share * shares.sum(-1) + 1e-9
    assert bool((too_little | ~extra.any(-1)).all())


@pytest.mark.parametrize("every_key", [0, 3, 128])
def test_sampling_that_does_not_divide_a_block_is_refused(every_key: int) -> None:
    q, k, _ = call(64, 64)
    with pytest.raises(ValueError, match="every_key"):
        block_shares(q, k, None, 0, 0.3, True, every_key=every_key)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_outside_of_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        choose_blocks(torch.zeros(1, 1, 1, 1), share, None, 0, 64, 64, True)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_lists_name_the_chosen_blocks_of_routed_heads(query_blocks: int, key_blocks: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(2, 3, query_blocks, key_blocks, generator=generator) < 0.5
    routed = torch.rand(3, generator=generator) < 0.7
    block_ptr, block_index = lists_of(chosen, routed)
    assert block_ptr.dtype == block_index.dtype == torch.int32
    assert len(block_ptr) == 2 * 3 * -(-query_blocks // 2) + 1 and int(block_ptr[-1]) == len(block_index)
    read = listed_blocks(block_ptr, block_index, 2, 3, key_blocks * LIST_BLOCK)
    assert torch.equal(read[:, :, :query_blocks], chosen & routed[:, None, None])
    assert not read[:, :, query_blocks:].any()


def test_with_the_whole_share_a_routed_head_is_dense() -> None:
    q, k, v = call(333, 333)
    mask = padding(333)
    shares = block_shares(q, k, mask, 0, 0.3, True)
    chosen = choose_blocks(shares, 1.0, mask, 0, 333, 333, True)
    routed = torch.tensor([True, False, True, True])
    params = torch.where(routed[:, None], 0, DENSE)
    lists = lists_of(chosen, routed)
    out = attention_reference(q, k, v, mask, params, 0, 0.3, True, *lists)
    # Blocks of a share that rounds to nothing may be left out.
    torch.testing.assert_close(
        out, attention_reference(q, k, v, mask, DENSE, 0, 0.3, True), rtol=1e-6, atol=1e-9
    )
