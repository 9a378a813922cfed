"""What the commands print: results on stdout, progress and remarks on stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import rich.progress

    from hcompile.progress import Progress

_WIDE = 240  # Columns of a table that goes to a file or a pipe.
_QUIET_S = 10.0  # Without a terminal, at most one line of progress in this time.


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on stdout; columns whose name starts with `>` hold numbers and are set to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    console.print(table)


def remark(text: str) -> None:
    """Print a line that is no result."""
    click.echo(text, err=True)


@contextmanager
def progress() -> Iterator[Progress]:
    """Show the progress of stages on stderr: bars with the time left on a terminal, a line now and then elsewhere."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines()
        yield lines
        lines.finish()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        yield _Bars(bars)


class _Bars:
    """One bar a stage."""

    def __init__(self, bars: rich.progress.Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, rich.progress.TaskID] = {}

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)


class _Lines:
    """A line when a stage begins and ends, and in between not more often than every `_QUIET_S` seconds."""

    def __init__(self) -> None:
        self._stage = ""
        self._began = self._spoke = 0.0

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self.finish()
            self._stage, self._began, self._spoke = stage, now, now
            remark(f"{stage} ...")
        elif now - self._spoke >= _QUIET_S:
            self._spoke = now
            remark(f"{stage}: {done}{f' of {total}' if total else ''}{self._left(done, total, now)}")

    def finish(self) -> None:
        if self._stage:
            remark(f"{self._stage}: {seconds(time.monotonic() - self._began)}")
        self._stage = ""

    def _left(self, done: int, total: int | None, now: float) -> str:
        if not total or not done:
            return ""
        return f", {seconds((now - self._began) * (total - done) / done)} left"


def seconds(duration_s: float) -> str:
    """Return a duration for people, such as `4.2 s` or `3 min 05 s`."""
    if duration_s < 60:
        return f"{duration_s:.1f} s"
    minutes, rest = divmod(round(duration_s), 60)
    return f"{minutes} min {rest:02d} s"


def milliseconds(latency_us: float) -> str:
    """Return a latency in ms with three significant digits."""
    return f"{latency_us / 1000:#.3g}".removesuffix(".")
