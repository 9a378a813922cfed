"""What an attention pattern is: an element-exact rule of which keys a query sees, free of any kernel tile."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from hcompile.patterns.blocks import LIST_WINDOW

if TYPE_CHECKING:
    import torch

UNBOUNDED = 2**30
"""The window of a dense head as kernels read it: larger than any sequence, small enough for int32 sums."""


WIDENING_KEYS, WIDENING_STEP = 1024, 256
"""The keys of a call for which a window that widens gains its `widening`, and the step in which these keys are counted:
kernels keep what they know of a node's heads, once for each window that they have."""


class Pattern(ABC):
    """One rule for one query head.

    Query `i` has the absolute position `p = q_offset + i`. Key `j` is visible to it iff the key is valid (padding),
    not later than `p` in causal attention, and the pattern's own `visible` holds. `start` is the index of the first
    valid key of the batch row, so that patterns that speak of the first tokens mean tokens and not padding.
    """

    family: ClassVar[str]
    has_far_field: ClassVar[bool] = False
    """Whether a head sees what is outside its window through learned features (`hcompile.far_field`)."""

    @abstractmethod
    def params(self) -> tuple[int, int]:
        """Return (window, sinks), what kernels read for each head; a window of 0 says that it reads lists of blocks.

        Of a window that widens, what it is before it does.
        """

    @property
    def widening(self) -> int:
        """How many keys the window gains with every `WIDENING_KEYS` keys of a call (see `widening_keys`); 0 where it is
        always the same."""
        return 0

    def at(self, length: int) -> Pattern:
        """Return the pattern that this one is in a call of `length` keys, whose window does not widen."""
        return self

    def widened(self, length: int, share: float) -> Pattern:
        """Return a pattern whose window is the same at `length` keys, and at others by a share of it proportional to
        their number; itself where it has no such window."""
        return self

    @property
    def reads_lists(self) -> bool:
        """Whether a head of the pattern reads lists of key blocks."""
        return self.params()[0] == LIST_WINDOW

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, with the family under "family"."""

    @abstractmethod
    def label(self) -> str:
        """Return a short name for tables and plots, such as `local 256+64`."""

    @abstractmethod
    def hides(self, length: int) -> bool:
        """Return whether the pattern can hide a pair of a sequence of this length."""

    def serves(self, *, causal: bool) -> bool:
        """Return whether there are kernels for the pattern in attention of this kind."""
        return True

    def alike(self) -> Pattern:
        """Return the pattern that takes about as long on random inputs as this one on those that it is for."""
        return self

    def timed_as(self) -> tuple[tuple[float, Pattern], ...]:
        """Return patterns whose times on random inputs, times their weights, add up to this one's."""
        return ((1.0, self),)

    def measured(self, kept: float) -> Pattern:
        """Return the pattern with the share of the dense pairs that it was seen to visit, where its family keeps it."""
        return self

    def visible(self, position: torch.Tensor, key: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Return the visibility of keys (`[..., Sk]`) to query positions (`[..., Sq, 1]`), causality aside.

        Raises:
            ValueError: the window widens, so that what is visible depends on the length: take `at` first.
        """
        if self.widening:
            raise ValueError(f"{self.label()}: what it sees depends on the length")
        window, sinks = self.params()
        return ((position - key).abs() < window) | (key < start + sinks)

    @abstractmethod
    def visited_pairs(self, q_len: int, kv_len: int, *, causal: bool) -> int:
        """Count the (query, key) pairs one head visits, exactly, without padding, at no cost that grows with lengths.

        The last query stands at the last key: `q_offset = kv_len - q_len`.
        """


def widening_keys(length: int) -> int:
    """Return the keys that count for a window that widens, in a call of `length` keys: those of whole steps."""
    return -(-length // WIDENING_STEP) * WIDENING_STEP


def clipped_sum(first: int, count: int, limit: int) -> int:
    """Return the sum of `min(max(x, 0), limit)` over the `count` integers x from `first` on."""

    def up_to(last: int) -> int:
        ramp = min(max(last, 0), limit)
        return ramp * (ramp + 1) // 2 + (max(last, 0) - ramp) * limit

    return up_to(first + count - 1) - up_to(first - 1)


_PER = f"/{WIDENING_KEYS}"
"""Ends what a window gains, in a label."""

_PARSERS: dict[str, Callable[[dict[str, Any]], Pattern]] = {}
_MAKERS: dict[str, Callable[..., Pattern]] = {}
_MENUS: dict[str, tuple[Pattern, ...]] = {}
_LEARNED: set[str] = set()


def register_family(
    family: str,
    parse: Callable[[dict[str, Any]], Pattern],
    make: Callable[..., Pattern],
    menu: tuple[Pattern, ...] = (),
    *,
    learned: bool = False,
) -> None:
    """Add a pattern family.

    Args:
        parse: turns its JSON form (less "family") into the pattern.
        make: takes the numbers of its label, as in `local 256+64` and `local 256+64+32/1024`.
        menu: what a policy may choose from for a head that is dense.
        learned: whether its heads hold numbers that are learnt from calibration text, so that a user must ask for it.
    """
    if family in _PARSERS:
        raise ValueError(f"pattern family {family!r} is registered twice")
    _PARSERS[family] = parse
    _MAKERS[family] = make
    if menu:
        _MENUS[family] = menu
    if learned:
        _LEARNED.add(family)


def families() -> tuple[str, ...]:
    """Return the families that a policy can choose from."""
    return tuple(_MENUS)


def default_families() -> tuple[str, ...]:
    """Return those of them that learn nothing from calibration text: others are chosen from where a user names them."""
    return tuple(family for family in _MENUS if family not in _LEARNED)


def menu_of(family: str) -> tuple[Pattern, ...]:
    """Return what a policy may choose of a family. Raises: KeyError when it has no menu."""
    return _MENUS[family]


def pattern_of_label(label: str) -> Pattern:
    """Return the pattern that has a label, such as `local 256+64`. Raises: ValueError when none has."""
    family, _, numbers = label.partition(" ")
    try:
        fixed, named = numbers.split("+") if numbers else [], {}
        if fixed and fixed[-1].endswith(_PER):
            named["widening"] = int(fixed.pop().removesuffix(_PER))
        return _MAKERS[family](*map(int, fixed), **named)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{label!r} is no pattern such as 'dense' or 'local 256+64'") from error


def parse_pattern(value: Any) -> Pattern:
    """Return the pattern of a JSON form.

    Raises:
        ValueError: the form is not one of a known family, or its values are out of range.
    """
    family = value.get("family") if isinstance(value, dict) else None
    if not isinstance(family, str) or family not in _PARSERS:
        known = ", ".join(sorted(_PARSERS))
        raise ValueError(f"pattern {value!r} is of no known family (known: {known})")
    rest = {name: field for name, field in value.items() if name != "family"}
    try:
        return _PARSERS[family](rest)
    except TypeError as error:
        raise ValueError(f"pattern {value!r} has wrong fields: {error}") from error
