"""`hcompile bench`: the compiled module against the strongest dense baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hcompile.cli.options import as_json, lengths, seed
from hcompile.cli.render import milliseconds, print_json, print_table, progress, seconds
from hcompile.cli.tables import print_crossover

if TYPE_CHECKING:
    from hcompile.bench.report import BenchReport, LengthResult


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@lengths
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    metavar="N",
    help="Rows of a call: 1, or as few as the model takes.",
)
@click.option("--memory", is_flag=True, help="Also measure the peak memory of a call.")
@seed
@as_json
def bench(artifact: Path, as_json: bool, **fields: Any) -> None:
    """Time ARTIFACT against the dense model, interleaved in one run.

    The dense side is the fastest of eager, torch.compile for each shape (on a GPU also with cuDNN's attention), and
    one compiled graph for all shapes.
    """
    from hcompile.bench.bench import BenchRequest
    from hcompile.bench.bench import bench as measure

    request = BenchRequest(artifact, **fields)
    with progress() as report_progress:
        report = measure(request, report_progress)
    if as_json:
        print_json(report.to_json())
    else:
        _show(report)


def _show(report: BenchReport) -> None:
    device, versions = report.device, report.versions
    click.echo(
        f"{report.artifact}: {report.dtype}, linears by {report.linear_library}, batch {report.batch}, medians in ms"
    )
    width = (
        f"{device['threads']} threads" if device["kind"] == "cpu" else f"{device['cores']} multiprocessors"
    )
    click.echo(f"{device['model']}, {device['isa']}, {width}, torch {versions['torch']}")
    memory = any(result.hybrid_peak_bytes is not None for result in report.lengths)
    columns = [
        ">tokens",
        ">dense",
        "baseline",
        ">hybrid",
        ">speedup",
        ">rounds",
        ">pairs kept",
        ">rest",
        "graph",
    ]
    columns += [">dense MiB", ">hybrid MiB"] if memory else []
    print_table(columns, [_row(result, memory) for result in report.lengths])
    print_crossover(report.crossover)
    click.echo(f"loaded in {seconds(report.load_s)}, first call {seconds(report.first_call_s)}")
    if any(result.noisy for result in report.lengths):
        click.echo("* other work used the machine meanwhile: repeat this on a quiet one")


def _row(result: LengthResult, memory: bool) -> tuple[str, ...]:
    row: tuple[str, ...] = (
        f"{result.length}{'*' if result.noisy else ''}",
        milliseconds(result.dense[result.strongest].median_us),
        result.strongest,
        milliseconds(result.module.median_us),
        f"{result.ratio:.2f}x",
        f"{result.ratio_low:.2f} to {result.ratio_high:.2f}",
        f"{result.pairs_kept:.1%}",
        milliseconds(result.rest.median_us),
        result.graph,
    )
    return row + (
        (_mebibytes(result.dense_peak_bytes), _mebibytes(result.hybrid_peak_bytes)) if memory else ()
    )


def _mebibytes(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes / 2**20:.0f}"
