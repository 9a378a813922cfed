"""What routed selection would cost a byte model: KL against dense on the standard library, and pairs read.

    python -m benchmarks.routing MODEL_FOLDER [--plan plan.json] [--shares .9,.95] [--every 1,8] [--documents N]
                                 [--length N] [--device cpu|cuda]

The heads that are dense under the plan (all, without one) read lists of key blocks that are chosen at run time
(`hcompile.routing`) for a share of their attention, estimated on every n-th key; the others keep their windows. All is
computed by the references, so this says nothing about time: it is where a selection rule is tried before it is built.
A pair of the estimate counts half, since no value is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import torch
from torch import Tensor

from benchmarks.quality import divergence, logits_of
from examples.corpus import spread, standard_library
from hcompile.errors import UsageError
from hcompile.far_field import FarFields
from hcompile.frontend.load import load_model
from hcompile.lists import lists_of
from hcompile.operator import Kernel, bind
from hcompile.passes.lower import lower, lower_dense
from hcompile.passes.place import place
from hcompile.passes.select import select
from hcompile.patterns import Dense
from hcompile.patterns.blocks import LIST_BLOCK
from hcompile.plan import Plan
from hcompile.policy.interface import Interface
from hcompile.program import Program
from hcompile.reference import attention_reference
from hcompile.routing import block_shares, choose_blocks
from hcompile.runtime.inductor import CompiledGraph

Tally = Callable[[float], None]
"""Told how many pairs the routed heads of a call read, in the mean over its rows."""


def routed_kernel(routed: Tensor, share: float, every: int, tally: Tally) -> Kernel:
    """Return a kernel whose `routed` heads, bool `[Hq]`, choose their blocks; calls are causal and without padding."""

    def kernel(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None,
        head_params: Tensor,
        q_offset: int,
        scale: float,
        causal: bool,
        block_count: Tensor | None = None,
        block_index: Tensor | None = None,
        far: FarFields | None = None,
    ) -> Tensor:
        shares = block_shares(q, k, key_mask, q_offset, scale, causal, every_key=every)
        chosen = choose_blocks(shares, share, key_mask, q_offset, q.shape[2], k.shape[2], causal)
        own = chosen[:, routed].diagonal(dim1=-2, dim2=-1).sum()
        hidden = own * (LIST_BLOCK * (LIST_BLOCK - 1) // 2)
        tally(float(chosen[:, routed].sum() * LIST_BLOCK**2 - hidden) / len(q))
        params = torch.where(routed[:, None], 0, head_params)
        lists = lists_of(chosen[:, routed])
        return attention_reference(q, k, v, key_mask, params, q_offset, scale, causal, *lists, far)

    return kernel


def under_rule(
    program: Program, routed: Mapping[str, Tensor], share: float, every: int, tally: Tally
) -> Program:
    """Return the selected program with these heads of its sites routed."""
    bindings = {}
    for site, heads in routed.items():
        bindings[site] = f"routing {site} {share} {every} {id(tally)}"
        bind(bindings[site], routed_kernel(heads, share, every, tally))
    return lower(program, bindings)


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option("--plan", type=click.Path(path_type=Path, exists=True), help="Default: every head is dense.")
@click.option("--shares", default="0.9,0.95", show_default=True)
@click.option("--every", default="1,8", show_default=True, help="1 for exact shares.")
@click.option("--documents", type=click.IntRange(min=2), default=8, show_default=True)
@click.option("--length", type=click.IntRange(min=256), default=8192, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def main(
    model: Path, plan: Path | None, shares: str, every: str, documents: int, length: int, device: str
) -> None:
    """Measure what routing the dense heads of MODEL would cost."""
    length -= length % LIST_BLOCK
    program = load_model(model, dtype="float32").program
    given = Plan.dense(program.sites) if plan is None else Plan.from_json(json.loads(plan.read_bytes()))
    program = place(select(program, given), torch.device(device))
    interface = Interface.of(program)
    dense = logits_of(CompiledGraph(lower_dense(program)), interface, program.device)
    texts = [data[:length] for data in spread(standard_library(length), documents)]

    def measured(graph: Program) -> float:
        hybrid = logits_of(CompiledGraph(graph), interface, program.device)
        return float(divergence(dense, hybrid, texts, interface)["kl"])

    routed = {
        site.name: torch.tensor([isinstance(each, Dense) for each in given[site.name]], device=program.device)
        for site in program.sites
        if Dense() in given[site.name]
    }
    if not routed:
        raise UsageError(f"{plan}: no head is dense, so none can be routed")
    heads = sum(int(each.sum()) for each in routed.values())
    pairs = length * (length + 1) // 2
    everything = pairs * sum(site.q_heads for site in program.sites)
    local = given.visited_pairs(program.sites, length) - heads * pairs
    as_given = f"{(local + heads * pairs) / everything:.2%} of the pairs"
    click.echo(f"the plan as it is: KL {measured(lower(program, {})):.5f}, {as_given}")
    for step in [int(text) for text in every.split(",")]:
        for share in [float(text) for text in shares.split(",")]:
            read: list[float] = []
            kl = measured(under_rule(program, routed, share, step, read.append))
            forwards = len(read) / len(routed)
            click.echo(
                f"share {share:g}, every {step}. key: KL {kl:.5f}, {(local + sum(read) / forwards) / everything:.2%} "
                f"of the pairs, and {heads * pairs / step / 2 / everything:.2%} to choose them"
            )


if __name__ == "__main__":
    main()
