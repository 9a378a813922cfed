"""A workload: what one kernel call computes, coarse enough that the same measurement serves many calls.

The lengths and the batch are rounded up to buckets, and the heads are a histogram of their patterns: a plan's
exact order of heads would hardly ever be seen twice, and a call's time depends on how many heads of each kind
it has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hcompile.checks import check_bool, check_int, check_object, check_text, shown
from hcompile.patterns import UNBOUNDED, Pattern, parse_pattern, pattern_of_label
from hcompile.values import canonical_json, sha256_json

DTYPES = ("bfloat16", "float16", "float32")

_FIELDS = ("op", "dtype", "batch", "q_heads", "kv_heads", "head_dim", "q_len", "kv_len", "causal", "heads")


_EXAMPLE = "bfloat16 1x32/8x128 8192x8192 causal: 4 dense, 28 local 512+64"
_LABEL = re.compile(r"(\w+) (\d{1,9})x(\d{1,9})/(\d{1,9})x(\d{1,9}) (\d{1,9})x(\d{1,9})( causal)?: (.+)")


def bucket(size: int) -> int:
    """Return the least of the powers of two and the midpoints between them that is not below `size`.

    The buckets are 1, 2, 3, 4, 6, 8, 12, 16, ...: a size is at most half above the next smaller bucket.

    Raises:
        ValueError: `size` is below 1 or above `UNBOUNDED`.
    """
    check_int("size", size, 1, UNBOUNDED)
    power = 1 << (size - 1).bit_length()
    middle = power // 4 * 3
    return middle if size <= middle else power


def histogram(heads: Iterable[Pattern]) -> tuple[tuple[Pattern, int], ...]:
    """Return each pattern of `heads` once with its count, in the order of the patterns' JSON texts."""
    return tuple(sorted(Counter(heads).items(), key=_head_order))


@dataclass(frozen=True, slots=True)
class Workload:
    """One kernel call: Q `[batch, q_heads, q_len, head_dim]`, K and V `[batch, kv_heads, kv_len, head_dim]`.

    The last query stands at the last key. `Workload.of` builds one from exact sizes.

    Attributes:
        op: kind of the operation, such as `attention`.
        dtype: dtype of Q, K, V and the output, one of `DTYPES`.
        batch, q_len, kv_len: buckets (see `bucket`); a workload is measured at exactly these sizes.
        heads: the histogram of the query heads' patterns, as `histogram` orders it.
    """

    op: str
    dtype: str
    batch: int
    q_heads: int
    kv_heads: int
    head_dim: int
    q_len: int
    kv_len: int
    causal: bool
    heads: tuple[tuple[Pattern, int], ...]

    def __post_init__(self) -> None:
        check_text("workload op", self.op, 64)
        if self.dtype not in DTYPES:
            raise ValueError(f"workload dtype is {shown(self.dtype)}, wanted one of {', '.join(DTYPES)}")
        for name in ("batch", "q_heads", "kv_heads", "head_dim", "q_len", "kv_len"):
            check_int(f"workload {name}", getattr(self, name), 1, UNBOUNDED)
        check_bool("workload causal", self.causal)
        for name in ("batch", "q_len", "kv_len"):
            if getattr(self, name) != bucket(getattr(self, name)):
                raise ValueError(f"workload {name} is {getattr(self, name)}, which is no bucket")
        if self.q_heads % self.kv_heads:
            raise ValueError(
                f"workload: {self.q_heads} query heads for {self.kv_heads} KV heads is no multiple"
            )
        if self.causal and self.q_len > self.kv_len:
            raise ValueError(f"workload: {self.q_len} causal queries are more than {self.kv_len} keys")
        for _, count in self.heads:
            check_int("workload head count", count, 1, self.q_heads)
        patterns = [pattern for pattern, _ in self.heads]
        if len(set(patterns)) != len(patterns) or list(self.heads) != sorted(self.heads, key=_head_order):
            raise ValueError("workload heads are no histogram: a pattern comes twice or out of order")
        if sum(count for _, count in self.heads) != self.q_heads:
            raise ValueError(f"workload heads do not add up to {self.q_heads} query heads")

    @classmethod
    def of(
        cls,
        heads: Iterable[Pattern],
        *,
        kv_heads: int,
        head_dim: int,
        q_len: int,
        kv_len: int,
        causal: bool,
        dtype: str,
        batch: int = 1,
        op: str = "attention",
    ) -> Workload:
        """Return the workload of a call with one pattern per query head and these exact sizes.

        Its windows do not widen: they are what they are at its length.

        Raises:
            ValueError: a size is out of range.
        """
        heads = tuple(pattern.at(bucket(kv_len)) for pattern in heads)
        sizes = {"batch": bucket(batch), "q_len": bucket(q_len), "kv_len": bucket(kv_len)}
        shape = {"q_heads": len(heads), "kv_heads": kv_heads, "head_dim": head_dim}
        return cls(op=op, dtype=dtype, causal=causal, heads=histogram(heads), **sizes, **shape)

    def patterns(self) -> tuple[Pattern, ...]:
        """Return one pattern per query head, equal ones side by side."""
        return tuple(pattern for pattern, count in self.heads for _ in range(count))

    def label(self) -> str:
        """Return a short name, such as `float32 1x8/8x64 8192x8192 causal: 1 dense, 7 local 256+64`."""
        shape = f"{self.batch}x{self.q_heads}/{self.kv_heads}x{self.head_dim} {self.q_len}x{self.kv_len}"
        heads = ", ".join(f"{count} {pattern.label()}" for pattern, count in self.heads)
        return f"{self.dtype} {shape}{' causal' if self.causal else ''}: {heads}"

    @classmethod
    def parse(cls, text: str) -> Workload:
        """Return the workload of a call that is written as `label` writes it; its sizes may be any.

        Raises:
            ValueError: the text is none, or a size is out of range.
        """
        found = _LABEL.fullmatch(text)
        if found is None:
            raise ValueError(f"wanted a workload such as {_EXAMPLE!r}")
        dtype, *sizes, causal, heads = found.groups()
        batch, q_heads, kv_heads, head_dim, q_len, kv_len = map(int, sizes)
        patterns: list[Pattern] = []
        for entry in heads.split(", "):
            count, _, label = entry.partition(" ")
            if not count.isdecimal() or not 1 <= int(count) <= q_heads:
                raise ValueError(
                    f"{entry!r} is no count of heads and their pattern, such as '28 local 512+64'"
                )
            patterns += [pattern_of_label(label)] * int(count)
        if len(patterns) != q_heads:
            raise ValueError(f"{len(patterns)} heads have a pattern, and there are {q_heads}")
        return cls.of(
            patterns,
            kv_heads=kv_heads,
            head_dim=head_dim,
            q_len=q_len,
            kv_len=kv_len,
            causal=causal is not None,
            dtype=dtype,
            batch=batch,
        )

    @property
    def digest(self) -> str:
        """The sha256 of the JSON form."""
        return sha256_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {name: getattr(self, name) for name in _FIELDS}
        value["heads"] = [[pattern.to_json(), count] for pattern, count in self.heads]
        return value

    @classmethod
    def from_json(cls, value: Any) -> Workload:
        """Raises: ValueError that says what is wrong with the form."""
        fields = check_object("workload", value, _FIELDS)
        heads = fields["heads"]
        if not isinstance(heads, list) or not all(
            isinstance(pair, list) and len(pair) == 2 for pair in heads
        ):
            raise ValueError(f"workload heads are {shown(heads)}, wanted pairs of pattern and count")
        parsed = tuple((parse_pattern(pattern), count) for pattern, count in heads)
        return cls(**{**fields, "heads": parsed})


def _head_order(entry: tuple[Pattern, int]) -> str:
    return canonical_json(entry[0].to_json())
