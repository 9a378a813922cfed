"""The one entry for models: a transformers folder, an archive of torch.export, or a factory of the user's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hcompile.errors import UsageError

if TYPE_CHECKING:
    import torch

    from hcompile.program import Program

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """A model as the compiler takes it.

    Attributes:
        program: the program with its attention raised.
        kind: "transformers", "archive" or "module".
        source: the path or the factory's name, for messages and records.
        original: the graph as it was exported, on the same tensors: what a call takes whose guards do not hold. None
            for a transformers folder, whose raised graph needs no guard.
        sample_inputs: flat inputs that came with the model, or ().
    """

    program: Program
    kind: str
    source: str
    original: Program | None = None
    sample_inputs: tuple[torch.Tensor, ...] = ()


def load_model(path: str | Path, *, dtype: str | None = None) -> ImportedModel:
    """Load a model folder.

    Args:
        path: a folder with config.json and safetensors.
        dtype: dtype of a folder's weights, "float32" or "bfloat16"; None for the one they are saved in.

    Raises:
        UsageError: there is no such path, or what is there cannot be used; the message says why.
    """
    import torch

    from hcompile.frontend.transformers_folder import load_folder

    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    path = Path(path)
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    program, _ = load_folder(path, None if dtype is None else getattr(torch, dtype))
    return ImportedModel(program, "transformers", str(path))
