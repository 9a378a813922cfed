"""Pictures of patterns: what each one of a plan lets a query see, and which head of which layer has which."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hcompile.errors import EnvironmentFault, UsageError
from hcompile.patterns import Dense, Pattern
from hcompile.plan import Plan
from hcompile.site import Site

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".pdf", ".png", ".svg")

_PIXELS = 256  # Positions drawn along each side of a pattern's picture.
_COLUMNS = 6
_ROW_INCHES = 2.6
_LABELLED_HEADS = 16  # Beyond this many heads a label would not fit into its cell.


def save_picture(path: Path, plan: Plan, sites: Sequence[Site], *, length: int = 4096) -> None:
    """Draw the plan over `length` tokens into a file whose ending is one of `FORMATS`.

    Raises:
        UsageError: another ending, or the file cannot be written.
        EnvironmentFault: matplotlib is missing.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"picture {path} has no known ending: choose one of {', '.join(FORMATS)}")
    try:
        figure = draw(plan, sites, length)
    except ModuleNotFoundError as error:
        raise EnvironmentFault(f"pictures need {error.name}: pip install 'hcompile[plot]'") from error
    picture = BytesIO()
    figure.savefig(picture, format=path.suffix[1:])
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        half.write_bytes(picture.getvalue())
        half.replace(path)
    except OSError as error:
        half.unlink(missing_ok=True)
        raise UsageError(
            f"picture {path} cannot be written ({error.strerror}): name another place"
        ) from error


def draw(plan: Plan, sites: Sequence[Site], length: int) -> Figure:
    """Return the figure: above, each distinct pattern as a picture of queries by keys; below, the map of heads."""
    from matplotlib.figure import Figure

    distinct = _distinct(plan, sites)
    rows = -(-len(distinct) // _COLUMNS)
    map_height = 1.0 + 0.35 * len(sites)
    figure = Figure(figsize=(12, _ROW_INCHES * rows + map_height), layout="constrained", dpi=110)
    above, below = figure.subfigures(
        2, 1, height_ratios=(_ROW_INCHES * rows, map_height), squeeze=False
    ).flatten()
    cells = above.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for axes, (pattern, causal) in zip(cells, distinct, strict=False):
        _draw_pattern(axes, pattern, causal, length)
    for axes in cells[len(distinct) :]:
        axes.axis("off")
    _draw_heads(below.subplots(), plan, sites, length)
    return figure


def visibility(pattern: Pattern, causal: bool, positions: torch.Tensor) -> torch.Tensor:
    """Return which keys at `positions` (int64 `[N]`) the queries there see: bool `[N, N]`, queries first."""
    import torch

    queries, keys = positions[:, None], positions[None, :]
    seen = pattern.visible(queries, keys, torch.tensor(0))
    return seen & (keys <= queries) if causal else seen


def _distinct(plan: Plan, sites: Sequence[Site]) -> list[tuple[Pattern, bool]]:
    """Return each pattern of the plan once, with whether its site is causal, the widest first."""
    seen = {(pattern, site.causal) for site in sites for pattern in plan[site.name]}
    return sorted(seen, key=lambda entry: (*entry[0].params(), entry[0].widening, entry[1]), reverse=True)


def _draw_pattern(axes: Axes, pattern: Pattern, causal: bool, length: int) -> None:
    import torch

    seen = visibility(pattern.at(length), causal, torch.linspace(0, length - 1, min(length, _PIXELS)).long())
    dense, visited = (kind.visited_pairs(length, length, causal=causal) for kind in (Dense(), pattern))
    axes.imshow(
        seen.numpy(), cmap="Blues", vmin=0, vmax=1.4, extent=(0, length, length, 0), interpolation="nearest"
    )
    axes.set_title(f"{pattern.label()}\n{visited / dense:.1%} of dense", fontsize=9)
    axes.set_xticks([0, length])
    axes.set_yticks([0, length])
    axes.tick_params(labelsize=7)
    axes.set_xlabel("key", fontsize=8, labelpad=-8)
    axes.set_ylabel("query", fontsize=8, labelpad=-16)


def _draw_heads(axes: Axes, plan: Plan, sites: Sequence[Site], length: int) -> None:
    """Draw one cell for each head, the darker the more keys a query sees (on a logarithmic scale)."""
    import numpy

    heads = max(site.q_heads for site in sites)
    shades: Any = numpy.full((len(sites), heads), numpy.nan)
    for row, site in enumerate(sites):
        for head, pattern in enumerate(plan[site.name]):
            pairs = pattern.visited_pairs(length, length, causal=site.causal)
            shades[row, head] = math.log(max(1.0, pairs / length)) / math.log(length)
            if heads <= _LABELLED_HEADS:
                color = "white" if shades[row, head] > 0.6 else "black"
                label = pattern.label().removeprefix("local ")
                axes.text(head, row, label, ha="center", va="center", fontsize=7, color=color)
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_title("pattern of each query head (a window: window+sinks)", fontsize=9)
    axes.set_xlabel("query head", fontsize=8)
    axes.set_xticks(range(heads) if heads <= _LABELLED_HEADS else [0, heads - 1])
    axes.set_yticks(range(len(sites)), [site.name for site in sites])
    axes.tick_params(labelsize=7)
