"""What a kernel template is to a tuner: a space for each problem. Templates are registered by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from hcompile.checks import check_bool, check_int, check_text
from hcompile.patterns import Pattern
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.space import Space


@dataclass(frozen=True, slots=True)
class Problem:
    """What decides which schedules of a CPU's template are legal.

    Attributes:
        dtype: dtype of Q, K, V and the output.
        vector_bits: width of the widest vectors that the code may use.
        vector_registers: how many of them there are.
        dot_bfloat16: whether there is an instruction that multiplies and adds pairs of bfloat16.
    """

    dtype: str
    head_dim: int
    vector_bits: int
    vector_registers: int
    dot_bfloat16: bool

    def __post_init__(self) -> None:
        check_text("problem dtype", self.dtype, 16)
        check_int("problem head_dim", self.head_dim, 1, 2**16)
        check_int("problem vector_bits", self.vector_bits, 64, 2**12)
        check_int("problem vector_registers", self.vector_registers, 1, 2**10)
        check_bool("problem dot_bfloat16", self.dot_bfloat16)


@dataclass(frozen=True, slots=True)
class GpuProblem:
    """What decides which schedules of a GPU's template are legal.

    Attributes:
        dtype: dtype of Q, K, V and the output.
        capability: the GPU's compute capability, such as 90.
        shared_bytes: shared memory that one block may take.
    """

    dtype: str
    head_dim: int
    capability: int
    shared_bytes: int

    def __post_init__(self) -> None:
        check_text("problem dtype", self.dtype, 16)
        check_int("problem head_dim", self.head_dim, 1, 2**16)
        check_int("problem capability", self.capability, 70, 999)
        check_int("problem shared_bytes", self.shared_bytes, 1, 2**30)


class TilePairs(Protocol):
    """Counts the (query, key) pairs whose scores one head computes under a schedule, at least the visited ones."""

    def __call__(
        self, schedule: Schedule, pattern: Pattern, q_len: int, kv_len: int, *, causal: bool
    ) -> int: ...


@dataclass(frozen=True, slots=True)
class Template:
    """A kernel template.

    Attributes:
        supports: whether the template has a kernel for a (dtype, head_dim).
        space: the schedules of a supported problem, which is of the kind of the template's target.
        tile_pairs: what whole tiles make of a pattern.
    """

    name: str
    supports: Callable[[str, int], bool]
    space: Callable[[Any], Space]
    tile_pairs: TilePairs


_TEMPLATES: dict[str, Template] = {}


def register_template(template: Template) -> None:
    if template.name in _TEMPLATES:
        raise ValueError(f"template {template.name!r} is registered twice")
    _TEMPLATES[template.name] = template


def get_template(name: str) -> Template:
    """Return a registered template. Raises: KeyError when there is none of this name."""
    import hcompile.schedules.templates  # noqa: F401  registers the templates of the house

    return _TEMPLATES[name]
