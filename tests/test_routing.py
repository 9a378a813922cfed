"""Routed selection: exact shares, the fewest blocks that hold a share, and lists as the operator reads them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hcompile.lists import listed_blocks, lists_of
from hcompile.patterns.blocks import LIST_BLOCK
from hcompile.reference import attention_reference, visible_pairs
from hcompile.routing import block_shares, choose_blocks, route

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
def test_lists_name_the_chosen_blocks(query_blocks: int, key_blocks: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(2, 3, query_blocks, key_blocks, generator=generator) < 0.5
    lists = lists_of(chosen)
    assert lists[0].dtype == lists[1].dtype == torch.int32
    assert lists[1].shape == (2, 3, -(-query_blocks // 2), key_blocks)
    read = listed_blocks(lists, key_blocks * LIST_BLOCK)
    assert torch.equal(read[:, :, :query_blocks], chosen)
    assert not read[:, :, query_blocks:].any()


def test_what_stands_behind_a_list_says_nothing() -> None:
    count, index = lists_of(torch.tensor([[[[True, False, True], [False, False, True]]]]))
    assert count.tolist() == [[[2]]] and index[..., :2].tolist() == [[[[1, 11]]]]
    index[..., 2:] = -(2**31)
    assert listed_blocks((count, index), 192).tolist() == [[[[True, False, True], [False, False, True]]]]


ROUTED = torch.tensor([[0, 1000], [2**30, 0], [0, 600], [20, 3]], dtype=torch.int32)


@pytest.mark.parametrize("causal", [True, False])
def test_heads_are_routed_by_their_parameters(causal: bool) -> None:
    q, k, v = call(333, 333)
    mask = padding(333)
    out = attention_reference(q, k, v, mask, ROUTED, 0, 0.3, causal)
    lists = route(q, k, mask, ROUTED, 0, 0.3, causal)
    assert lists is not None
    assert torch.equal(out, attention_reference(q, k, v, mask, ROUTED, 0, 0.3, causal, *lists))
    dense = attention_reference(q, k, v, mask, DENSE, 0, 0.3, causal)
    assert torch.equal(out[:, 1], dense[:, 1])
    assert not torch.allclose(out[:, 2], dense[:, 2])
    # Blocks of a share that rounds to nothing, and those of keys that are not sampled, may be left out.
    shares = block_shares(q[:, [2]], k[:, [1]], mask, 0, 0.3, causal, every_key=8)
    chosen = choose_blocks(shares, 0.6, mask, 0, 333, 333, causal)
    assert torch.equal(listed_blocks(lists, 333)[:, 1:, :6], chosen)
    assert route(q, k, mask, DENSE, 0, 0.3, causal) is None


def test_a_part_of_the_queries_is_routed_as_the_whole_is() -> None:
    q, k, v = call(333, 333)
    whole = attention_reference(q, k, v, None, ROUTED, 0, 0.3, True)
    part = attention_reference(q[:, :, 128:], k, v, None, ROUTED, 128, 0.3, True)
    torch.testing.assert_close(part, whole[:, :, 128:])


def test_with_the_whole_share_a_routed_head_is_dense() -> None:
    q, k, v = call(333, 333)
    mask = padding(333)
    shares = block_shares(q[:, [0, 2, 3]], k[:, [0, 1, 1]], mask, 0, 0.3, True)
    lists = lists_of(choose_blocks(shares, 1.0, mask, 0, 333, 333, True))
    params = torch.where(torch.tensor([True, False, True, True])[:, None], 0, DENSE)
    out = attention_reference(q, k, v, mask, params, 0, 0.3, True, *lists)
    # Blocks of a share that rounds to nothing may be left out.
    torch.testing.assert_close(
        out, attention_reference(q, k, v, mask, DENSE, 0, 0.3, True), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("kv_len", [1, 3, 4])
def test_a_call_of_fewer_keys_than_are_left_out_reads_its_own_block(kv_len: int) -> None:
    q, k, v = call(kv_len, kv_len)
    params = torch.tensor([[0, 1000]] * 4, dtype=torch.int32)
    lists = route(q, k, None, params, 0, 0.3, True)
    assert lists is not None and bool((lists[0] == 1).all()) and bool((lists[1] == 1).all())
    dense = attention_reference(q, k, v, None, DENSE, 0, 0.3, True)
    torch.testing.assert_close(attention_reference(q, k, v, None, params, 0, 0.3, True), dense)
