"""Call a compiled model from a program of one's own: `python -m examples.embed model.hcm some_file.py`.

Prints how well the model predicts the file's first 8192 bytes, and how long that took.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import click
import torch

import hcompile


@click.command()
@click.argument("compiled", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("text", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(compiled: Path, text: Path) -> None:
    ids = torch.tensor([list(text.read_bytes()[:8192])])
    model = hcompile.load(compiled)
    model(input_ids=ids)  # the first call compiles
    began = time.perf_counter()
    logits = model(input_ids=ids).logits
    seconds = time.perf_counter() - began
    nats = torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:]).item()
    click.echo(f"{nats / math.log(2):.3f} bits a byte over {ids.shape[1]} bytes in {seconds:.2f} s")


if __name__ == "__main__":
    main()
