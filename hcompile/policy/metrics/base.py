"""What a metric is: a degradation of the hybrid against the dense outputs, summed by document."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from hcompile.errors import UsageError
from hcompile.policy.batches import Batch
from hcompile.policy.interface import Interface
from hcompile.site import Site

CHUNK_ELEMENTS = 2**22
"""Elements of logits that are turned into float64 at once: 32 MB."""


@dataclass(frozen=True, slots=True)
class DocumentScore:
    """One document's share of a degradation: the degradation of many is sum(total) / sum(weight).

    Attributes:
        total: the degradation, summed over the document.
        weight: what it is divided by, such as its number of tokens.
        tokens: valid tokens (or rows of output) that were compared.
    """

    total: float
    weight: float
    tokens: int

    def to_json(self) -> list[float]:
        return [self.total, self.weight, self.tokens]

    @classmethod
    def from_json(cls, value: list[Any]) -> DocumentScore:
        total, weight, tokens = value
        return cls(float(total), float(weight), int(tokens))


def degradation(scores: Sequence[DocumentScore]) -> float:
    """Return the degradation over all documents."""
    return sum(score.total for score in scores) / sum(score.weight for score in scores)


class Metric(ABC):
    """A measure of what is lost. Lower is better, 0 for equal outputs.

    Attributes:
        name, unit: for people; a budget calls the metric by its name.
        needs_logits: whether the output must be logits.
        expanded: whether Taylor scores (`hcompile.policy.surrogate`) are of this very metric, in its unit.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    needs_logits: ClassVar[bool]
    expanded: ClassVar[bool] = False

    def label(self) -> str:
        return self.name

    def source(self) -> str:
        """Return what tells this metric from another one of the same label, for keys of remembered scores."""
        return self.label()

    def limit(self, written: float) -> float:
        """Return the largest degradation for the number in a budget."""
        return written

    def check(self, interface: Interface, sites: Sequence[Site]) -> None:
        """Raise UsageError unless the metric can be measured on the model."""
        if self.needs_logits and not interface.logits:
            raise UsageError(
                f"metric {self.label()} needs logits and the model returns none: use cosine=0.999"
            )

    @abstractmethod
    def score(
        self,
        dense: Sequence[torch.Tensor],
        hybrid: Sequence[torch.Tensor],
        batch: Batch,
        interface: Interface,
    ) -> list[DocumentScore]:
        """Return the score of each row of a batch from the flat outputs of both models.

        Raises:
            UsageError: an output is not finite, or has a shape that the metric cannot use.
        """


def output_rows(outputs: Sequence[torch.Tensor], interface: Interface, name: str) -> torch.Tensor:
    """Return the output that counts, as `[B, tokens, features]`.

    Raises:
        UsageError: it is no floating tensor with a feature dimension.
    """
    value = outputs[interface.output]
    if not value.is_floating_point() or value.dim() < 2:
        raise UsageError(
            f"metric {name} needs a floating output of rows and features, the model's is {list(value.shape)}"
        )
    return value.flatten(1, -2) if value.dim() > 2 else value[:, None]


def row_valid(rows: torch.Tensor, batch: Batch, index: int) -> torch.Tensor:
    """Return bool `[tokens]`, which of a row's tokens count: all, unless the output has one per input token."""
    if batch.valid is None or batch.valid.shape[1] != rows.shape[1]:
        return torch.ones(rows.shape[1], dtype=torch.bool, device=rows.device)
    return batch.valid[index].to(rows.device)


def check_finite(total: float, kind: str, where: str) -> None:
    """Raises: UsageError when a sum over outputs is NaN or infinite."""
    if not total < float("inf") or total == float("-inf"):
        raise UsageError(
            f"the {kind} model's output is not finite on {where}: "
            "check the weights and the dtype, or leave the document out"
        )


def chunks(rows: torch.Tensor) -> list[slice]:
    """Return slices of the tokens of `rows` `[tokens, features]` that fit into `CHUNK_ELEMENTS`."""
    size = max(1, CHUNK_ELEMENTS // max(1, rows.shape[1]))
    return [slice(first, first + size) for first in range(0, rows.shape[0], size)]
