"""`hcompile inspect`: what attention a model has, or what an artifact holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hcompile.cli.options import as_json, dtype, factory, trust
from hcompile.cli.render import print_json, print_table
from hcompile.cli.tables import print_certificate, print_crossover, print_left, print_plan, refit_line
from hcompile.policy.certificate import Certificate

if TYPE_CHECKING:
    from hcompile.pipeline.inspect import InspectReport


@click.command()
@click.argument("path")
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw the patterns: .png, .svg or .pdf."
)
@factory
@dtype
@trust
@as_json
def inspect(path: str, plot: Path | None, as_json: bool, **fields: Any) -> None:
    """Show a model's attention, or what an artifact holds.

    Of a model: what can be rewritten, and what stays as it is and why. Of an artifact: its plan, certificate, schedules
    and hashes, read from its JSON; nothing of it is run.
    """
    from hcompile.pipeline.inspect import inspect as look

    report = look(path, **fields)
    if plot is not None:
        from hcompile.plot import save_picture

        save_picture(plot, report.plan, report.sites)
    if as_json:
        print_json(report.to_json())
    else:
        _show(report)


def _show(report: InspectReport) -> None:
    if report.artifact is None:
        click.echo(f"{report.path}: {report.kind}, attention that can be rewritten: {len(report.sites)}")
        if report.found:
            print_table(
                ("attention", "heads (query/KV)", "found as", "mask", "guarded input"),
                map(_found, report.found),
            )
        print_left(report.left)
    else:
        _show_artifact(report, report.artifact, report.schedules or {})


def _found(finding: Mapping[str, Any]) -> tuple[str, ...]:
    heads = f"{finding['q_heads']}/{finding['kv_heads']} of {finding['head_dim']}"
    return finding["site"], heads, finding["match"], finding["mask"], finding["guard"] or ""


def _show_artifact(report: InspectReport, manifest: Mapping[str, Any], schedules: Mapping[str, Any]) -> None:
    device = "no machine" if manifest["device"] is None else manifest["device"]["model"]
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    click.echo(f"{report.path}: artifact of {manifest['source']} ({manifest['kind']}, {manifest['dtype']})")
    click.echo(f"made with {versions}; tuned on {device}")
    print_plan(report.plan, report.sites)
    print_left(report.left)
    refit = manifest["notes"].get("refit")
    if refit:
        click.echo(refit_line(refit))
    if manifest["certificate"] is not None:
        print_certificate(Certificate.from_json(dict(manifest["certificate"])))
    print_crossover(manifest["crossover"])
    click.echo()
    print_table(("attention", ">tokens up to", "schedule"), _schedule_rows(schedules))
    click.echo()
    print_table(("file", "sha256"), sorted(manifest["files"].items()))


def _schedule_rows(schedules: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield one row for each node and length."""
    for site, table in schedules.items():
        for entry in table:
            values = " ".join(f"{name}={value}" for name, value in entry["schedule"]["values"].items())
            yield site, str(entry["length"]), f"{entry['schedule']['template']} {values}"
