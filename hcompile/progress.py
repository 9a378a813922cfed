"""How long work tells what it does: a callable that takes the stage, what is done and what there is to do."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called at the start of a stage, on each step and at its end."""

    def __call__(self, stage: str, done: int, total: int | None) -> None: ...


def quiet(stage: str, done: int, total: int | None) -> None:
    """Tell nobody."""
