"""`hcompile report`: the page of a run that was kept as JSON."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hcompile.cli.render import remark
from hcompile.errors import UsageError
from hcompile.report.place import check_place, write_page

if TYPE_CHECKING:
    from hcompile.pipeline.ablation import Ablation
    from hcompile.pipeline.report import OptimizeReport


@click.command()
@click.argument("saved", metavar="JSON", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The HTML file to write."
)
def report(saved: Path, output: Path) -> None:
    """Write the page of a run from JSON: what `hcompile optimize --json` printed, or `hcompile ablate` wrote."""
    check_place(output, saved)
    found = _read(saved)
    try:
        save_page(output, found)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise _no_report(saved, error) from error


def save_page(path: Path, found: OptimizeReport | Ablation) -> None:
    """Write the page of a run. Raises: EnvironmentFault when it cannot be written."""
    from hcompile.pipeline.ablation import Ablation
    from hcompile.report.ablation_page import ablation_page
    from hcompile.report.optimize_page import optimize_page
    from hcompile.report.page import render

    today = date.today().isoformat()
    page = ablation_page(found, today) if isinstance(found, Ablation) else optimize_page(found, today)
    write_page(path, render(page))
    remark(f"wrote {path}")


def _read(path: Path) -> OptimizeReport | Ablation:
    from hcompile.pipeline.ablation import Ablation
    from hcompile.pipeline.report import OptimizeReport

    try:
        value = json.loads(path.read_bytes())
        read = Ablation if isinstance(value, dict) and "sensitivities" in value else OptimizeReport
        return read.from_json(value)
    except OSError as error:
        raise UsageError(f"{path}: the report cannot be read ({error.strerror})") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _no_report(path, error) from error


def _no_report(path: Path, error: Exception) -> UsageError:
    told = f"{type(error).__name__}: {error}"
    return UsageError(f"{path}: is no report of `hcompile optimize --json` or `hcompile ablate` ({told})")
