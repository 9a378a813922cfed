"""Measures prefill of a whole model on a GPU: Llama-3.2-1B's shape, random weights, bfloat16, the last token's logits.

    python -m benchmarks.gpu_whole_model [--lengths N,...] [--planned N] [--layers N] [--artifact FILE]
                                         [--results FOLDER]

The plan is given: of 32 query heads those of one KV group are dense, 1 in 8; the others see a window of 512 and 64
sinks. One artifact serves all lengths; the dense baselines are those of `hcompile bench`, of which two are compiled
anew for each length. What is timed is a call from the host until the device is done. With `--artifact`, what optimizing
gave is kept there, and taken from there when it exists: so the lengths can be measured in more than one run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

import hcompile
from benchmarks.record import RESULTS, save
from hcompile.bench.bench import BenchRequest, bench
from hcompile.bench.report import LengthResult
from hcompile.codegen.triton_gpu.machine import this_gpu
from hcompile.patterns import Dense, Local
from hcompile.pipeline.optimize import optimize
from hcompile.pipeline.request import OptimizeRequest
from hcompile.plan import Plan
from hcompile.site import Site

LENGTHS = (512, 2048, 32768, 131072)
WINDOW = Local(512, 64)
DENSE_HEADS = 4
SEED = 0


class LastLogits(nn.Module):
    """A causal model whose output is the logits of the last token `[B, 1, V]`, as a server's prefill wants them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, use_cache=False, logits_to_keep=1).logits
        return logits


def llama_1b(layers: int) -> nn.Module:
    """Return Llama-3.2-1B's shape (its config.json on Hugging Face) with random weights, on the CPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=131_072,
        rope_theta=500_000.0,
        tie_word_embeddings=True,
    )
    torch.manual_seed(SEED)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    return LastLogits(model.to("cpu", torch.bfloat16)).eval()


def plan_of(sites: tuple[Site, ...]) -> Plan:
    """Return the plan: the heads of the first KV group dense, all others local."""
    return Plan(
        tuple(
            (site.name, (Dense(),) * DENSE_HEADS + (WINDOW,) * (site.q_heads - DENSE_HEADS)) for site in sites
        )
    )


def optimized(artifact: Path, planned: int, layers: int) -> dict[str, Any]:
    """Write the artifact, and beside it what optimizing reported, unless both exist; return the report."""
    told = artifact.with_suffix(".optimize.json")
    if not (artifact.exists() and told.exists()):
        ids = torch.randint(128_000, (2, 48), generator=torch.Generator().manual_seed(SEED))
        model = hcompile.load_module(llama_1b(layers), ((ids,), {}), source="llama-3.2-1b shape")
        plan = artifact.with_suffix(".plan.json")
        plan.write_text(json.dumps(plan_of(model.program.sites).to_json()))
        request = OptimizeRequest(
            "llama-3.2-1b",
            artifact,
            plan=plan,
            lengths=(min(2048, planned), planned),
            trials=12,
            backend="cuda",
        )
        report = optimize(request, lambda stage, *_: click.echo(stage, err=True), model=model).to_json()
        names = ("stages", "kernels_measured", "crossover", "removed")
        told.write_text(json.dumps({name: report[name] for name in names}, indent=1))
        del model
        torch.cuda.empty_cache()
    found: dict[str, Any] = json.loads(told.read_bytes())
    return found


def measure(artifact: Path, lengths: tuple[int, ...], planned: int, layers: int) -> dict[str, Any]:
    """Return the reports of optimizing and of benchmarking."""
    report = optimized(artifact, planned, layers)
    click.echo(json.dumps(report))
    request = BenchRequest(artifact, lengths, memory=True, least=3, most=30, enough_s=1.0)
    return {
        "layers": layers,
        "plan": f"{DENSE_HEADS} of 32 heads dense, one KV group; the others {WINDOW.label()}",
        "optimize": report,
        "bench": bench(request, found=_tell).to_json(),
    }


def _tell(row: LengthResult) -> None:
    peaks = [None if peak is None else peak >> 20 for peak in (row.dense_peak_bytes, row.hybrid_peak_bytes)]
    click.echo(
        f"{row.length:7}: {row.ratio:.2f}x ({row.ratio_low:.2f} to {row.ratio_high:.2f}) of {row.strongest}, "
        f"{row.graph} graph, {row.module.median_us / 1000:.2f} ms, MiB dense and hybrid {peaks}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)))
    parser.add_argument("--planned", type=int, default=131072, help="tokens that kernels are tuned for")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--artifact", type=Path, help="default: a temporary file")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    lengths = tuple(int(length) for length in options.lengths.split(","))
    with tempfile.TemporaryDirectory() as folder:
        artifact = options.artifact or Path(folder) / "model.hcm"
        measured = measure(artifact, lengths, options.planned, options.layers)
    click.echo(save("gpu-whole-model", this_gpu(), measured, options.results))


if __name__ == "__main__":
    main()
