"""What lists of key blocks that are fixed from calibration data would add to windows: attention held at equal pairs.

    python -m benchmarks.fixed_lists MODEL_FOLDER [--length 8192] [--documents 10] [--output FOLDER]

Half of the documents calibrate, the others tell how much of its attention each head would miss. Blocks are of 64
queries and 64 keys. A window with the first blocks of the text is the best of all sizes; columns (the same keys for all
queries) and diagonals (keys at the same distance) are picked one by one, by what they hold a pair, which takes in
strided patterns; then the best of all lists that are the same for every document; and the best of each document.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import torch
from torch import Tensor

from benchmarks.record import RESULTS, save
from examples.corpus import standard_library
from hcompile.codegen import get_backend

BLOCK, ROWS = 64, 1024
SHARES = (0.05, 0.1, 0.2, 0.4)
"""Of the causal blocks that are kept."""
FIRST = (0, 1, 2, 4, 8)
"""Blocks at the beginning of a text, to choose from, beside a window."""


class Blocks:
    """The causal blocks of a text, `[N, N]` by query and key block."""

    def __init__(self, count: int) -> None:
        self.count = count
        row, column = torch.meshgrid(torch.arange(count), torch.arange(count), indexing="ij")
        self.distance, self.column = row - column, column
        self.causal = self.distance >= 0
        lines = [self.column == c for c in range(count)] + [self.distance == d for d in range(count)]
        self._lines = (torch.stack(lines) & self.causal).float().view(2 * count, -1)

    def window(self, budget: int, held: Tensor) -> Tensor:
        """Return the blocks of the window and first blocks that hold most within a number of blocks."""
        found, most = self.distance == 0, -1.0
        for first in FIRST:
            for width in range(1, self.count + 1):
                kept = self.causal & ((self.distance < width) | (self.column < first))
                if int(kept.sum()) > budget:
                    break
                if float(held[kept].sum()) > most:
                    found, most = kept, float(held[kept].sum())
        return found

    def lines(self, budget: int, held: Tensor) -> Tensor:
        """Return the blocks of columns and diagonals, picked by what each adds a block."""
        kept = (self.distance == 0).view(-1)
        while True:
            rest = self._lines * ~kept
            sizes = rest.sum(1)
            gains = rest @ held.view(-1) / sizes.clamp(min=1)
            gains[(sizes == 0) | (sizes + kept.sum() > budget)] = 0.0
            best = int(gains.argmax())
            if gains[best] <= 0:
                return kept.view(self.count, self.count)
            kept = kept | self._lines[best].bool()

    def any(self, budget: int, held: Tensor) -> Tensor:
        """Return the blocks that hold most."""
        kept = torch.zeros(self.count**2, dtype=torch.bool)
        kept[torch.where(self.causal, held, -1.0).view(-1).topk(budget).indices] = True
        return kept.view(self.count, self.count)


def held_by_head(model: Path, length: int, documents: int) -> dict[tuple[int, int], list[Tensor]]:
    """Return what share of a query's attention lies in each block, by layer and head, for each document."""
    from transformers import AttentionInterface, AutoModelForCausalLM

    found: dict[tuple[int, int], list[Tensor]] = {}

    def attend(
        module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, **_: Any
    ) -> tuple[Tensor, None]:
        group = q.shape[1] // k.shape[1]
        heads = []
        for head in range(q.shape[1]):
            held, rows = torch.zeros(length // BLOCK, length // BLOCK), []
            for start in range(0, length, ROWS):
                end = start + ROWS
                hidden = torch.arange(end) > torch.arange(start, end)[:, None]
                scores = q[0, head, start:end] @ k[0, head // group, :end].T * scaling
                weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
                rows.append(weights @ v[0, head // group, :end])
                held[start // BLOCK : end // BLOCK, : end // BLOCK] = (
                    weights.view(ROWS // BLOCK, BLOCK, end // BLOCK, BLOCK).sum((1, 3)) / BLOCK
                )
            found.setdefault((module.layer_idx, head), []).append(held)
            heads.append(torch.cat(rows))
        return torch.stack(heads, 1)[None], None

    AttentionInterface.register("fixed_lists", attend)
    network = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation="fixed_lists"
    )
    with torch.inference_mode():
        for text in standard_library(length)[:documents]:
            network.model(input_ids=torch.tensor([list(text[:length])]))
    return found


def missed(
    found: dict[tuple[int, int], list[Tensor]], blocks: Blocks, share: float
) -> dict[str, list[float]]:
    """Return the share of its attention that each head misses on documents that did not calibrate."""
    budget = int(share * int(blocks.causal.sum()))
    kinds: dict[str, Callable[[int, Tensor], Tensor]] = {
        "windows": blocks.window,
        "columns and diagonals": blocks.lines,
        "any fixed blocks": blocks.any,
    }
    rows: dict[str, list[float]] = {name: [] for name in (*kinds, "best of each document")}
    for held in found.values():
        half = len(held) // 2
        calibrated, fresh = torch.stack(held[:half]).mean(0), held[half:]
        for name, choose in kinds.items():
            kept = choose(budget, calibrated)
            rows[name].append(1 - fmean(float(each[kept].sum()) / blocks.count for each in fresh))
        best = (float(each[blocks.any(budget, each)].sum()) / blocks.count for each in fresh)
        rows["best of each document"].append(1 - fmean(best))
    return rows


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--length", type=click.IntRange(min=ROWS), default=8192, show_default=True, help="Tokens, of bytes."
)
@click.option("--documents", type=click.IntRange(min=2), default=10, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def main(model: Path, length: int, documents: int, output: Path) -> None:
    """Measure what fixed lists of blocks would add to windows, for a model of bytes."""
    length -= length % ROWS
    found = held_by_head(model, length, documents)
    blocks = Blocks(length // BLOCK)
    shares = []
    for share in SHARES:
        rows = missed(found, blocks, share)
        means = {name: round(fmean(each), 4) for name, each in rows.items()}
        click.echo(
            f"{share:.0%} of the blocks, missed: " + ", ".join(f"{k} {v:.4f}" for k, v in means.items())
        )
        shares.append({"share": share, "missed": means})
    record = {"model": model.name, "length": length, "documents": documents, "heads": len(found)}
    click.echo(save("fixed-lists", get_backend("tvm_cpu").device(), {**record, "shares": shares}, output))


if __name__ == "__main__":
    main()
