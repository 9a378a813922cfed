"""What a plan costs a byte model on the standard library: KL, bits a byte, and recall of planted pairs.

    python -m benchmarks.quality MODEL.hcm [--output quality.json]
    python -m benchmarks.quality MODEL_FOLDER --plan plan.json

A claim of its own beside the certificate, which speaks of the calibration's domain: no file of the standard library
calibrates anything here. Dense and hybrid see the same documents, without padding, in the same process.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from examples.corpus import spread, standard_library
from examples.planted import VALUE_LETTERS, plant_each, recall
from hcompile.artifact.load import open_artifact
from hcompile.errors import UsageError
from hcompile.frontend.load import load_model
from hcompile.passes.select import select
from hcompile.plan import Plan
from hcompile.policy.documents import Document, data_digest
from hcompile.policy.interface import Interface
from hcompile.policy.measure import Comparison
from hcompile.policy.metrics import metric_of
from hcompile.policy.metrics.score import degradation
from hcompile.policy.statistics import upper_bound
from hcompile.program import Program
from hcompile.runtime.dispatch import safe_tables
from hcompile.runtime.module import Lowered, graphs_without_padding

DISTANCES = (1024, 2048, 3072, 4096, 5120, 6000)
PAIRS_A_DOCUMENT = 12
CONFIDENCE = 0.95

Logits = Callable[[Tensor], Tensor]


def open_model(path: Path, plan: Path | None) -> tuple[Program, Lowered]:
    """Return the selected program and its graphs: of an artifact, or of a model folder under a plan.

    Raises:
        UsageError: neither fits.
    """
    if plan is None:
        opened = open_artifact(path)
        return opened.program, opened.lowered
    program = load_model(path, dtype="float32").program
    try:
        program = select(program, Plan.from_json(json.loads(plan.read_bytes())))
    except (OSError, ValueError) as error:
        raise UsageError(f"{plan}: the plan cannot be used ({error}); write it with --dry-run") from error
    return program, Lowered.of(program, None, safe_tables(program, "tvm_cpu"), "tvm_cpu", "default")


def logits_of(graph: Callable[..., Sequence[Tensor]], interface: Interface, device: torch.device) -> Logits:
    """Return the graph on a device as a function of byte ids `[B, S]`, ids and logits on the CPU."""

    def run(ids: Tensor) -> Tensor:
        ids = ids.to(device)
        flat = [
            ids if index == interface.tokens else torch.ones_like(ids)
            for index in range(len(interface.inputs))
        ]
        with torch.inference_mode():
            return graph(*flat)[interface.output].cpu()

    return run


def divergence(dense: Logits, hybrid: Logits, texts: Sequence[bytes], interface: Interface) -> dict[str, Any]:
    """Return KL(dense || hybrid) in nats a byte with its one-sided 95 % bound, and bits a byte of both."""
    assert interface.tokens is not None
    documents = [
        Document(str(index), {interface.token_name: torch.tensor(list(text))})
        for index, text in enumerate(texts)
    ]
    # One output and no mask, so that nothing is padded.
    calls = [partial(_on_tokens, model) for model in (dense, hybrid)]
    plain = Interface((interface.inputs[interface.tokens],), 0, None, 0, True)
    found: dict[str, Any] = {"documents": len(documents), "data_sha256": data_digest(documents)}
    compared = ("kl", "nll")
    comparison = Comparison(calls[0], calls[1], plain, [metric_of(name) for name in compared])
    scores = dict(zip(compared, comparison.scores(documents, "compare"), strict=True))
    found["kl"] = degradation(scores["kl"])
    found["kl_bound"] = upper_bound(scores["kl"], CONFIDENCE, 0)
    tokens = sum(score.tokens for score in scores["nll"])
    nats = sum(score.weight for score in scores["nll"])
    found["dense_bits_a_byte"] = nats / tokens / math.log(2)
    found["hybrid_bits_a_byte"] = (nats + sum(score.total for score in scores["nll"])) / tokens / math.log(2)
    return found


def planted(dense: Logits, hybrid: Logits, texts: Sequence[bytes], length: int, seed: int) -> dict[str, Any]:
    """Return the share of planted pairs that each model recalls, in all and by distance."""
    distances = [distance for distance in DISTANCES if distance < length - 100]
    a_text = (distances * PAIRS_A_DOCUMENT)[:PAIRS_A_DOCUMENT]
    documents = plant_each(texts, a_text, length, seed)
    counts = {
        distance: sum(answer.nominal == distance for document in documents for answer in document.answers)
        for distance in distances
    }
    pairs = sum(counts.values())
    found: dict[str, Any] = {"pairs": pairs, "letters": VALUE_LETTERS}
    for name, model in (("dense", dense), ("hybrid", hybrid)):
        shares = recall(model, documents)
        found[name] = sum(share * counts[distance] for distance, share in shares.items()) / pairs
        found[f"{name}_by_distance"] = {str(distance): share for distance, share in shares.items()}
    return found


def _on_tokens(model: Logits, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    return [model(inputs[0])]


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--plan", type=click.Path(path_type=Path, exists=True), help="Measure MODEL, a folder, under this plan."
)
@click.option("--documents", type=click.IntRange(min=2), default=48, show_default=True)
@click.option(
    "--length", type=click.IntRange(min=256), default=8192, show_default=True, help="Bytes of a document."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the planted pairs.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the JSON there too.")
def main(model: Path, plan: Path | None, documents: int, length: int, seed: int, output: Path | None) -> None:
    """Measure the quality of MODEL, an artifact or a model folder, and print it as JSON."""
    program, lowered = open_model(model, plan)
    chosen = program.plan
    assert chosen is not None
    interface = Interface.of(program)
    dense, hybrid = (
        logits_of(graph, interface, program.device) for graph in graphs_without_padding(program, lowered)
    )
    files = spread(standard_library(length), documents)
    report = {
        "model": model.name,
        "length": length,
        "plan_sha256": chosen.digest,
        "removed": chosen.removed_share(program.sites, length),
        "python": sys.version.split()[0],
        "standard_library": divergence(dense, hybrid, [data[:length] for data in files], interface),
        "planted": planted(dense, hybrid, files, length, seed),
    }
    text = json.dumps(report, indent=1)
    click.echo(text)
    if output is not None:
        output.write_text(text + "\n")


if __name__ == "__main__":
    main()
