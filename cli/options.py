"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from hcompile.codegen.registry import TARGETS
from hcompile.patterns import default_families, families

Option = Callable[[Any], Any]

_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class Integers(click.ParamType[tuple[int, ...]]):
    """Integers from `least` on, separated by commas."""

    name = "n,n,..."

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of integers such as 1024,8192.", param, ctx)
        if min(numbers) < self.least:
            self.fail(f"{min(numbers)} is below {self.least}.", param, ctx)
        return numbers


class Names(click.ParamType[tuple[str, ...]]):
    """Some of the `known` names, separated by commas."""

    name = "name,name,..."

    def __init__(self, known: tuple[str, ...]) -> None:
        self.known = known

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        names = value if isinstance(value, tuple) else tuple(part.strip() for part in value.split(","))
        for name in names:
            if name not in self.known:
                self.fail(f"{name!r} is not one of {', '.join(self.known)}.", param, ctx)
        return names


class Duration(click.ParamType[float]):
    """A time such as `90`, `90s`, `20m` or `1.5h`, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|min|h)?", value)
        if match is None or not float(match[1]):
            self.fail(f"{value!r} is no time such as 90s, 20m or 1.5h.", param, ctx)
        return float(match[1]) * _UNITS_S[match[2] or ""]


as_json: Option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
calib: Option = click.option(
    "--calib", metavar="SOURCE", help="Text files, a folder, jsonl, safetensors, or module:function."
)
database: Option = click.option("--db", metavar="URL", help="Path or URL of another tuning database.")
dtype: Option = click.option(
    "--dtype",
    type=click.Choice(("float32", "bfloat16", "float16")),
    help="Run the model in this dtype, not the saved one.",
)
factory: Option = click.option(
    "--model", "factory", metavar="MODULE:FUNCTION", help="Makes the module whose weights MODEL holds."
)
patterns: Option = click.option(
    "--families",
    type=Names(families()),
    metavar="NAME,NAME,...",
    help=f"Kinds of patterns to choose from, of {', '.join(families())}; {', '.join(default_families())} by default.",
)
lengths: Option = click.option(
    "--lengths", type=Integers(least=1), metavar="N,N,...", help="Sequence lengths, such as 1024,8192."
)
metric: Option = click.option(
    "--metric", metavar="MODULE:FUNCTION", help="A metric of your own, for the budget's name."
)
seed: Option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Makes a run repeatable."
)
target: Option = click.option(
    "--target",
    type=click.Choice(sorted(TARGETS)),
    default="cpu",
    show_default=True,
    help="What the artifact runs on: this CPU, or this machine's NVIDIA GPU.",
)
time_limit: Option = click.option(
    "--time-limit", "time_limit_s", type=Duration(), help="End tuning after this time, such as 20m."
)
trials: Option = click.option(
    "--trials", type=click.IntRange(min=1), help="Measure at most this many kernels for each workload."
)
trust: Option = click.option("--trust", is_flag=True, help="Load an archive even if it could run code.")
