"""A user's own metric, `--metric package.module:function`.

The function takes the dense model's outputs, the hybrid's, and the inputs (all lists of tensors, in the model's
order) and returns the degradation of each row, `[B]`: 0 for equal outputs, larger for worse.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from hcompile.errors import UsageError
from hcompile.policy.batches import Batch
from hcompile.policy.interface import Interface
from hcompile.policy.metrics.base import Metric
from hcompile.policy.metrics.score import DocumentScore
from hcompile.policy.sources import load_function
from hcompile.values import sha256_json


class UserMetric(Metric):
    """See the module's docstring."""

    name = "user"
    unit = "a document"
    needs_logits = False

    def __init__(self, path: str) -> None:
        """Raises: UsageError when there is no such function."""
        self.path = path
        self._function: Callable[..., Any] = load_function(path)

    def label(self) -> str:
        return self.path

    def source(self) -> str:
        file = inspect.getsourcefile(self._function)
        return self.path if file is None else sha256_json([self.path, Path(file).read_text()])

    def score(
        self,
        dense: Sequence[torch.Tensor],
        hybrid: Sequence[torch.Tensor],
        batch: Batch,
        interface: Interface,
    ) -> list[DocumentScore]:
        rows = self._rows(dense, hybrid, batch)
        count = batch.inputs[0].shape[0]
        if rows.shape != (count,):
            raise UsageError(
                f"metric {self.path} returned shape {list(rows.shape)} for {count} rows: return one number a row"
            )
        scores = []
        values = rows[: len(batch.documents)].tolist()
        for value, tokens, document in zip(values, batch.token_counts(), batch.documents, strict=True):
            if not math.isfinite(value):
                raise UsageError(
                    f"metric {self.path} returned {value} for {document.name}: return finite numbers"
                )
            scores.append(DocumentScore(value, 1.0, tokens))
        return scores

    def _rows(
        self, dense: Sequence[torch.Tensor], hybrid: Sequence[torch.Tensor], batch: Batch
    ) -> torch.Tensor:
        """Raises: UsageError when the function fails, or returns what is no number."""
        try:
            found = self._function(list(dense), list(hybrid), list(batch.inputs))
        except Exception as error:  # the user's code raises what it likes
            raise UsageError(
                f"metric {self.path} failed on {batch.documents[0].name} ({type(error).__name__}: {error}): "
                "mend the function"
            ) from error
        try:
            return torch.as_tensor(found, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"metric {self.path} returned a {type(found).__name__}: return one number a row"
            ) from error
