"""How fast a byte model's prefill is under the plans of several artifacts, in turn, beside the dense model.

    python -m benchmarks.plans chosen.hcm windows.hcm [--length 16384] [--rounds 9] [--in-a-row 4] [--output FOLDER]

And beside them an ideal: the first artifact's graph where every head sees one key, so what no plan can take away.
On a GPU a call alone may wait for the host, which starts its kernels one by one. With `--in-a-row` each turn makes that
many calls before it waits, as a server under load does, and its time is divided among them; given twice or more, one
after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.record import RESULTS, paired, save, spread
from examples.corpus import standard_library
from hcompile.artifact.load import Opened, open_artifact, read_tables
from hcompile.passes.select import select
from hcompile.patterns import Local
from hcompile.plan import Plan
from hcompile.policy.interface import Interface
from hcompile.runtime.inductor import CompiledGraph
from hcompile.runtime.module import Lowered, graphs_without_padding
from hcompile.tuning.timing import Rounds, graph_clock, time_calls


def without_attention(opened: Opened, path: Path) -> CompiledGraph:
    """Return an artifact's graph whose heads see one key each."""
    sites = opened.program.sites
    plan = Plan.of({site.name: [Local(1)] * site.q_heads for site in sites})
    program = select(opened.program, plan)
    lowered = Lowered.of(program, None, read_tables(path), opened.manifest.backend, opened.linear_library)
    return graphs_without_padding(program, lowered)[1]


def inputs_of(opened: Opened, length: int) -> list[torch.Tensor]:
    """Return flat inputs with the beginning of a file of the standard library."""
    text = standard_library(length)[0][:length]
    tokens = Interface.of(opened.program, opened.manifest.length_axis).tokens
    found = opened.inputs(length)
    if tokens is None:
        raise click.UsageError("the model reads no tokens")
    found[tokens] = torch.tensor([list(text)], dtype=found[tokens].dtype, device=found[tokens].device)
    return found


def repeated(graph: CompiledGraph, inputs: Sequence[torch.Tensor], calls: int) -> None:
    """Call a graph some times, and wait for none of them."""
    for _ in range(calls):
        graph(*inputs)


def measure(
    paths: Sequence[Path], length: int, rounds: int, in_a_row: Sequence[int]
) -> tuple[Opened, dict[str, Any]]:
    """Time the hybrid graphs of artifacts of one model, in turn."""
    opened = [open_artifact(path) for path in paths]
    inputs = inputs_of(opened[0], length)
    graphs = [
        graphs_without_padding(opened[0].program, opened[0].lowered)[0],
        without_attention(opened[0], paths[0]),
        *(graphs_without_padding(each.program, each.lowered)[1] for each in opened),
    ]
    clock = graph_clock(inputs[0].device.type)
    timed = []
    with torch.inference_mode():
        for count in in_a_row:
            calls = [partial(repeated, graph, inputs, count) for graph in graphs]
            times_us = time_calls(calls, Rounds(least=rounds, most=rounds), clock).times_us
            each_us = [[us / count for us in own] for own in times_us]
            timed.append({"in_a_row": count, **compared(*each_us)})
    sites = opened[0].program.sites
    return opened[0], {
        "length": length,
        "dtype": opened[0].manifest.dtype,
        "removed": [round(each.module.plan.removed_share(sites, length), 4) for each in opened],
        "timed": timed,
    }


def compared(
    dense_us: Sequence[float],
    ideal_us: Sequence[float],
    chosen_us: Sequence[float],
    *others_us: Sequence[float],
) -> dict[str, Any]:
    """Return what the times of one call say."""
    return {
        "dense_us": spread(dense_us),
        "one_key_us": spread(ideal_us),
        "hybrid_us": [spread(us) for us in (chosen_us, *others_us)],
        "over_dense": [spread(paired(dense_us, us), 3) for us in (chosen_us, *others_us)],
        "first_over": [spread(paired(us, chosen_us), 3) for us in others_us],
        "ideal_over": [spread(paired(us, ideal_us), 3) for us in others_us],
    }


@click.command()
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--length", type=click.IntRange(min=1), default=16384, show_default=True, help="Tokens.")
@click.option("--rounds", type=click.IntRange(min=3), default=9, show_default=True, help="Of timing.")
@click.option(
    "--in-a-row",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1,),
    show_default=True,
    help="Calls of one turn, in a row.",
)
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def main(artifacts: Sequence[Path], length: int, rounds: int, in_a_row: Sequence[int], output: Path) -> None:
    """Compare the first artifact's plan with the others'."""
    opened, found = measure(artifacts, length, rounds, in_a_row)
    for timed in found["timed"]:
        calls = timed["in_a_row"]
        click.echo("one call at a time" if calls == 1 else f"{calls} calls in a row")
        for path, removed, over in zip(artifacts, found["removed"], timed["over_dense"], strict=True):
            click.echo(f"  {path.name}: {removed:.1%} of the pairs removed, {over['median']:.2f}x dense")
        for path, gain, ideal in zip(artifacts[1:], timed["first_over"], timed["ideal_over"], strict=True):
            click.echo(
                f"  {artifacts[0].name} is {gain['median']:.3f}x as fast as {path.name} "
                f"({gain['quartile_low']:.3f} to {gain['quartile_high']:.3f}); without attention "
                f"{ideal['median']:.3f}x"
            )
    click.echo(save("plans", opened.device, found, output))


if __name__ == "__main__":
    main()
