"""The parts of a page, and its HTML. All text is escaped; only drawings of `hcompile.report.svg` are markup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing and what it shows.

    Attributes:
        svg: markup of `hcompile.report.svg.draw`, which holds no text of the user's.
        caption: what was measured, on what, and how often.
        small: it stands in a row with others like it.
    """

    svg: str
    caption: str
    small: bool = False
    kind: ClassVar[str] = "figure"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells as they are to be read.

    Attributes:
        columns: names; those that start with `>` hold numbers and are set to the right.
        caption: "" where the section says it all.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"table of {', '.join(self.columns)}: a row has another number of cells")


Block = Text | Figure | Table


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page.

    Attributes:
        name: its anchor, of letters and hyphens.
        rows: blocks; those of one row stand beside each other where there is room.
    """

    name: str
    title: str
    rows: tuple[tuple[Block, ...], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A page.

    Attributes:
        title: names the run.
        verdict: the outcome in one sentence.
        sections: in the order they are read.
        date: of the page, as it is to be shown.
    """

    title: str
    verdict: str
    sections: tuple[Section, ...]
    date: str


def render(page: Page) -> str:
    """Return the HTML document. Equal pages give equal text. Needs jinja2 (`hcompile.report.place.check_extra`)."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("hcompile.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    from hcompile import __version__

    return environment.get_template("page.html.j2").render(page=page, markup=Markup, version=__version__)
