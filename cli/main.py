"""The command `hcompile`: its group, and the boundary where errors become one line and an exit code."""

from __future__ import annotations

import warnings
from typing import Any, TextIO

import click

from hcompile import __version__
from hcompile.cli.ablate import ablate
from hcompile.cli.bench import bench
from hcompile.cli.db import db
from hcompile.cli.doctor import doctor
from hcompile.cli.inspect import inspect
from hcompile.cli.interrupts import ends_as_interrupts
from hcompile.cli.optimize import optimize
from hcompile.cli.report import report
from hcompile.cli.tune import tune
from hcompile.cli.verify import verify
from hcompile.errors import HCompileError

INTERRUPTED = 130

_KEEPING = (ablate.name, optimize.name, tune.name)
"""Commands that keep what they measure as they go."""


class CommandLine(click.Group):
    """The group that turns every error into one line. The commands import what they need when they run."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with ends_as_interrupts(), warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            kept = ": what was measured is kept, and the same command goes on from there"
            click.echo(f"Interrupted{kept if ctx.invoked_subcommand in _KEEPING else ''}.", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            if ctx.params["traceback"]:
                raise
            message, exit_code = _explain(error)
            click.echo(f"Error: {' '.join(message.split())}", err=True)
            ctx.exit(exit_code)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    click.echo(f"Warning: {' '.join(str(message).split())}", err=True)


def _explain(error: Exception) -> tuple[str, int]:
    """Return what to print of an error, and the exit code."""
    if isinstance(error, HCompileError):
        return str(error), error.exit_code
    return f"unexpected {type(error).__name__}: {error} (hcompile --traceback ... shows where)", 1


@click.group(
    cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="hcompile")
@click.option("--traceback", is_flag=True, help="Show where an error comes from.")
def main(traceback: bool) -> None:
    """Compile a PyTorch model with some of its attention heads made local, within a measured quality budget.

    \b
    Exit codes: 0 done, 2 usage or bad input, 3 quality budget out of reach, 4 no valid kernel,
    5 environment, 130 interrupted (by Ctrl-C, SIGTERM or SIGHUP).
    """


for command in (optimize, inspect, verify, ablate, bench, tune, db, doctor, report):
    main.add_command(command)
