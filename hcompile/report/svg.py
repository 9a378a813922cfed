"""Drawings for a page: matplotlib's SVG, made to stand inside HTML, to follow its colours, and to be repeatable."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch

INK, QUIET, RULE = "#010101", "#010102", "#010103"
HYBRID, DENSE, LIMIT, MASK, PAPER = "#010104", "#010105", "#010106", "#010107", "#010108"

_VARIABLES = {
    INK: "--ink",
    QUIET: "--quiet",
    RULE: "--rule",
    HYBRID: "--hybrid",
    DENSE: "--dense",
    LIMIT: "--limit",
    MASK: "--mask",
    PAPER: "--paper",
}
"""Colours that nothing else has, and the variables of page.css that stand in their places."""

_REM_AN_INCH = 6.25
_SCALED_IN = 6.0
"""A drawing that is wider, in inches, is not made smaller than half its size: it scrolls."""

_STYLE = {
    "axes.edgecolor": QUIET,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.labelsize": 10.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10.5,
    "figure.facecolor": "none",
    "font.size": 10,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": QUIET,
    "xtick.labelsize": 10,
    "ytick.color": QUIET,
    "ytick.labelsize": 10,
}


def draw(
    name: str,
    description: str,
    width: float,
    height: float,
    paint: Callable[[Figure], None],
    *,
    laid_out: bool = True,
) -> str:
    """Return the markup of a drawing of `width` by `height` inches.

    Args:
        name: unique on the page; letters, digits and hyphens.
        description: for those who do not see it; no text of the user's.
        paint: fills an empty figure.
        laid_out: give labels the room that they need; else `paint` places its axes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        # A letter without a glyph only makes the layout's guess of a width worse: the browser has the fonts.
        warnings.simplefilter("ignore", UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": name})
        figure = Figure(figsize=(width, height), layout="constrained" if laid_out else None)
        paint(figure)
        text = StringIO()
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _inline(text.getvalue(), name, description, width)


def cells(places: Iterable[tuple[float, float, float, float]], **look: Any) -> PathPatch:
    """Return one patch of rectangles (x, y, width, height), in data units; it is not smoothed, so no seams show."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    vertices: list[tuple[float, float]] = []
    codes: list[Any] = []
    for x, y, width, height in places:
        vertices += [(x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y)]
        codes += [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return PathPatch(Path(vertices, codes), gid="exact", **{"linewidth": 0, **look})


def plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis, once all is drawn, with numbers as they are read: the more, the less it spans."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    steps: tuple[float, ...] = (1.0,) if high > 300 * low else (1.0, 2.0, 5.0)
    if high <= 8 * low:
        steps = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _inline(text: str, name: str, description: str, width: float) -> str:
    """Turn a document into an element: without prolog, namespaces and rules for the whole page, with ids of its own."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' id="exact[^"]*"', ' class="exact"', text)
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    box = re.search(r'viewBox="[^"]*"', text)
    look = f"width: {width * _REM_AN_INCH:.1f}rem"
    if width > _SCALED_IN:
        look += f"; min-width: {width * _REM_AN_INCH / 2:.1f}rem"
    head = f'<svg {box[0] if box else ""} role="img" aria-label="{description}" style="{look}">'
    return head + text[text.index(">") + 1 :].strip()
