from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcompile.patterns import UNBOUNDED, Dense, Local, Pattern
from hcompile.values import canonical_json
from hcompile.workload import DTYPES, Workload, bucket, histogram

PATTERNS = st.one_of(
    st.just(Dense()), st.builds(Local, window=st.integers(1, 10**6), sinks=st.integers(0, 10**4))
)


def call(heads: list[Pattern], **changes: Any) -> Workload:
    sizes: dict[str, Any] = {"kv_heads": 1, "head_dim": 64, "q_len": 1000, "kv_len": 1000, "causal": True}
    return Workload.of(heads, **{**sizes, "dtype": "float32", **changes})


def test_buckets_are_powers_of_two_and_their_midpoints() -> None:
    assert sorted({bucket(size) for size in range(1, 100)}) == [
        1,
        2,
        3,
        4,
        6,
        8,
        12,
        16,
        24,
        32,
        48,
        64,
        96,
        128,
    ]


@given(st.integers(1, UNBOUNDED))
def test_a_bucket_holds_its_sizes_and_is_less_than_half_larger(size: int) -> None:
    assert size <= bucket(size) < 1.5 * size or size == bucket(size)
    assert bucket(bucket(size)) == bucket(size)


@pytest.mark.parametrize("size", [0, -1, UNBOUNDED + 1, True])
def test_a_size_out_of_range_has_no_bucket(size: int) -> None:
    with pytest.raises(ValueError, match="size is"):
        bucket(size)


@given(st.lists(PATTERNS, min_size=1, max_size=12), st.randoms())
def test_the_order_of_heads_does_not_matter(heads: list[Pattern], shuffle: random.Random) -> None:
    shuffled = list(heads)
    shuffle.shuffle(shuffled)
    assert call(shuffled) == call(heads)
    assert sorted(call(heads).patterns(), key=repr) == sorted(heads, key=repr)


def test_calls_of_one_bucket_are_one_workload() -> None:
    assert call([Dense()], q_len=1000, kv_len=1024, batch=5) == call(
        [Dense()], q_len=769, kv_len=800, batch=6
    )
    assert call([Dense()], q_len=768, kv_len=768) != call([Dense()], q_len=769, kv_len=769)


@given(
    heads=st.lists(PATTERNS, min_size=1, max_size=12),
    dtype=st.sampled_from(DTYPES),
    lengths=st.tuples(st.integers(1, 10**5), st.integers(1, 10**5)).map(sorted),
    causal=st.booleans(),
)
def test_json_round_trip(heads: list[Pattern], dtype: str, lengths: list[int], causal: bool) -> None:
    workload = call(heads, dtype=dtype, q_len=lengths[0], kv_len=lengths[1], causal=causal)
    again = Workload.from_json(json.loads(canonical_json(workload.to_json())))
    assert again == workload
    assert again.digest == workload.digest


def test_the_digest_that_stored_measurements_are_keyed_by_stays() -> None:
    workload = call([Dense(), Local(256, 64), Local(256, 64)], q_len=8192, kv_len=8192)
    assert workload.digest == "2a0450757dc95aaf22e922153786498dbafa096ba4089f4378c61f0a292f4427"


def test_the_label_names_shape_and_heads() -> None:
    workload = call([Dense(), *[Local(256, 64)] * 7], kv_heads=2, q_len=1, kv_len=8000)
    assert workload.label() == "float32 1x8/2x64 1x8192 causal: 1 dense, 7 local 256+64"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": "int8"}, "workload dtype is 'int8'"),
        ({"op": ""}, "workload op is ''"),
        ({"q_len": 1000}, "workload q_len is 1000, which is no bucket"),
        ({"batch": True}, "workload batch is True"),
        ({"kv_heads": 3}, "2 query heads for 3 KV heads"),
        ({"q_len": 2048}, "2048 causal queries are more than 1024 keys"),
        ({"heads": ((Dense(), 1),)}, "do not add up to 2 query heads"),
        ({"heads": ((Dense(), 1), (Dense(), 1))}, "a pattern comes twice or out of order"),
        ({"heads": ((Local(8), 1), (Dense(), 1))}, "a pattern comes twice or out of order"),
        ({"heads": ((Dense(), 2), (Local(8), 0))}, "workload head count is 0"),
    ],
)
def test_a_wrong_workload_says_what_is_wrong(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(call([Dense(), Local(8)]), **changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"surprise": 1}, "unknown fields"),
        ({"heads": [["dense", 1]]}, "of no known family"),
        ({"heads": [[{"family": []}, 1]]}, "of no known family"),
        ({"heads": {}}, "wanted pairs"),
        ({"heads": [[{"family": "dense"}]]}, "wanted pairs"),
    ],
)
def test_a_wrong_form_says_what_is_wrong(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Workload.from_json({**call([Dense()]).to_json(), **changes})


def test_a_histogram_counts_each_pattern_once() -> None:
    assert histogram([Local(8), Dense(), Local(8)]) == ((Dense(), 1), (Local(8), 2))


@given(
    st.lists(PATTERNS, min_size=1, max_size=6),
    st.sampled_from(DTYPES),
    st.integers(1, 9),
    st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)),
    st.booleans(),
)
def test_a_label_is_read_as_the_workload_that_it_names(
    heads: list[Pattern], dtype: str, batch: int, lengths: tuple[int, int], causal: bool
) -> None:
    q_len, kv_len = sorted(lengths)
    workload = call(heads, dtype=dtype, batch=batch, q_len=q_len, kv_len=kv_len, causal=causal)
    assert Workload.parse(workload.label()) == workload


def test_sizes_of_a_text_are_rounded_up_to_buckets() -> None:
    assert Workload.parse("float32 1x2/1x64 1000x1000 causal: 2 dense") == call([Dense()] * 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "wanted a workload such as 'bfloat16 1x32/8x128"),
        ("float32 1x2/1x64 8x8 causal: 1 dense", "1 heads have a pattern, and there are 2"),
        ("float32 1x2/1x64 8x8 causal: 2 wide", "'wide' is no pattern"),
        ("float32 1x2/1x64 8x8 causal: 999999999999 dense", "is no count of heads"),
        ("float32 1x2/1x64 8x8 causal: dense", "'dense' is no count of heads and their pattern"),
        ("int8 1x2/1x64 8x8 causal: 2 dense", "workload dtype is 'int8'"),
        ("float32 1x3/2x64 8x8 causal: 3 dense", "3 query heads for 2 KV heads"),
        ("float32 1x2/1x64 9x8 causal: 2 dense", "12 causal queries are more than 8 keys"),
        ("float32 0x2/1x64 8x8 causal: 2 dense", "size is 0"),
    ],
)
def test_a_text_that_is_no_workload_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Workload.parse(text)
