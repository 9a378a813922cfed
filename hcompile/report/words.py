"""How figures are written on a page."""

from __future__ import annotations

SPACE = "\N{NO-BREAK SPACE}"
NONE = "\N{EN DASH}"


def percent(share: float, digits: int = 1) -> str:
    """Return a share such as `82.1 %`."""
    return f"{100 * share:.{digits}f}{SPACE}%"


def confidence(share: float) -> str:
    """Return a confidence with the digits that it has, such as `95.5 %`."""
    return f"{100 * share:g}{SPACE}%"


def figure(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:.3g}"


def milliseconds(time_us: float) -> str:
    """Return a time in ms with three significant digits, without the unit."""
    return f"{time_us / 1000:#.3g}".removesuffix(".") if time_us < 999_500 else f"{time_us / 1000:.0f}"


def seconds(time_s: float) -> str:
    """Return a duration such as `4.2 s` or `3 min 05 s`."""
    if time_s < 60:
        return f"{time_s:.1f}{SPACE}s"
    minutes, rest = divmod(round(time_s), 60)
    return f"{minutes}{SPACE}min {rest:02d}{SPACE}s"


def count(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun."""
    return f"{number}{SPACE}{one if number == 1 else many or one + 's'}"


def listed(words: list[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def numbers(values: list[int]) -> str:
    """Return rising integers with runs drawn together, such as `0, 2-5`."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(low) if low == high else f"{low}\N{EN DASH}{high}" for low, high in runs)
