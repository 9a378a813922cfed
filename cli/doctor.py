"""`hcompile doctor`: what this machine has of what hcompile needs."""

from __future__ import annotations

import click

from hcompile.cli.options import as_json, database
from hcompile.cli.render import print_json, print_table
from hcompile.errors import EnvironmentFault


@click.command()
@database
@as_json
def doctor(db: str | None, as_json: bool) -> None:
    """Check this machine, and say what to do about each thing missing.

    The exit code is 5 where hcompile cannot work.
    """
    from hcompile.doctor import examine

    report = examine(db)
    if as_json:
        print_json(report.to_json())
    else:
        print_table(
            ("", "", "found", "what to do"), [(c.state, c.name, c.found, c.advice) for c in report.checks]
        )
    if not report.healthy:
        missing = ", ".join(check.name for check in report.checks if check.state == "fail")
        raise EnvironmentFault(f"this machine lacks what hcompile needs ({missing}): do as the report says")
