"""How far tuning goes by default, and for which lengths."""

from __future__ import annotations

from hcompile.passes.sites import Q, arguments
from hcompile.program import Program
from hcompile.runtime.inputs import longest
from hcompile.tuning.search import SearchOptions
from hcompile.tuning.tune import TuneOptions

_SHORT, _LONG = 1024, 8192


def default_lengths(program: Program, axis: tuple[int, int] | None) -> tuple[int, ...]:
    """Return the lengths to tune and to calibrate for: up to 8192 tokens, as far as the export allows."""
    limit = longest(program, axis)
    if axis is None:
        return (fixed_length(program),)
    long = _LONG if limit is None else min(_LONG, limit)
    return (long,) if long <= _SHORT else (_SHORT, long)


def tune_options(trials: int | None, time_limit_s: float | None, seed: int) -> TuneOptions:
    """Return the options of a search from what a user may set."""
    search = SearchOptions(seed=seed)
    return TuneOptions(
        search=SearchOptions(
            trials=search.trials if trials is None else trials,
            time_limit_s=search.time_limit_s if time_limit_s is None else time_limit_s,
            seed=seed,
        )
    )


def fixed_length(program: Program) -> int:
    """Return the number of tokens that the export fixed, by the traced shape of the first attention; 1 without one."""
    for _, node in program.attention_nodes():
        value = arguments(node)[Q].meta.get("val")
        if value is not None and isinstance(value.shape[2], int):
            return int(value.shape[2])
    return 1
