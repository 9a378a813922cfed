"""How far tuning goes by default, and for which lengths."""

from __future__ import annotations

from collections.abc import Sequence

from hcompile.errors import UsageError
from hcompile.program import Program
from hcompile.runtime.inputs import limits
from hcompile.tuning.search import SearchOptions
from hcompile.tuning.tune import TuneOptions

_SHORT, _LONG = 1024, 8192


def default_lengths(program: Program, axis: tuple[int, int] | None) -> tuple[int, ...]:
    """Return the lengths to tune and to calibrate for: up to 8192 tokens, as far as the export allows."""
    least, most = limits(program, axis)
    long = max(least, _LONG) if most is None else min(max(least, _LONG), most)
    return (long,) if long <= _SHORT or least > _SHORT else (_SHORT, long)


def chosen_lengths(
    wanted: Sequence[int] | None, program: Program, axis: tuple[int, int] | None
) -> tuple[int, ...]:
    """Return the lengths to work at, rising: those that are wanted, or `default_lengths`.

    Raises:
        UsageError: the export does not allow a length.
    """
    if wanted is None:
        return default_lengths(program, axis)
    check_lengths("--lengths", wanted, program, axis)
    return tuple(sorted(set(wanted)))


def check_lengths(
    option: str, lengths: Sequence[int], program: Program, axis: tuple[int, int] | None
) -> None:
    """Raise UsageError, naming the option, for the first length that the export does not allow."""
    least, most = limits(program, axis)
    for length in lengths:
        if most is not None and length > most:
            raise UsageError(f"{option} {length}: the model was made for at most {most} tokens")
        if length < least:
            raise UsageError(f"{option} {length}: the model was made for at least {least} tokens")


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
