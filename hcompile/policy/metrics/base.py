"""What a metric is: a degradation of the hybrid against the dense outputs, scored by document."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch

from hcompile.errors import UsageError
from hcompile.policy.batches import Batch
from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface
from hcompile.policy.metrics.score import DocumentScore
from hcompile.policy.statistics import MEAN, Statistic
from hcompile.policy.text import Encoder
from hcompile.site import Site

CHUNK_ELEMENTS = 2**22
"""Elements of logits that are turned into float64 at once: 32 MB."""


Write = Callable[[Sequence[Document], int], Sequence[Document]]
"""Returns documents with their last so many tokens as the dense model writes them (`hcompile.policy.writing`)."""


class Metric(ABC):
    """A measure of what is lost. Lower is better, 0 for equal outputs.

    Attributes:
        name, unit: for people; a budget calls the metric by its name.
        needs_logits: whether the output must be logits.
        needs_next_tokens: whether the model must be a causal one of tokens.
        expanded: whether Taylor scores (`hcompile.policy.surrogate`) are of this very metric, in its unit.
        statistic: what a budget bounds of the scores.
        own_documents: whether it measures on documents that it makes, and not on those it is given.
    """

    name: str
    unit: str
    needs_logits: bool
    expanded: bool = False
    statistic: Statistic = MEAN
    own_documents: bool = False
    needs_next_tokens: bool = False

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
        if self.needs_next_tokens and not (
            interface.tokens is not None and all(site.causal for site in sites)
        ):
            raise UsageError(f"metric {self.label()} needs a causal model of tokens: use kl=0.003")

    def documents(
        self,
        documents: Sequence[Document],
        interface: Interface,
        encode: Encoder | None,
        seed: int,
        write: Write | None = None,
    ) -> Sequence[Document]:
        """Return the documents to measure on: those given, or one made of each, in their order and of their origin.

        Args:
            encode: how the model reads text, None for one that takes none.
            write: the dense model's, None where nothing is to be measured yet and only the errors are asked for.

        Raises:
            UsageError: none can be made.
        """
        return documents

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


class TokenMetric(Metric):
    """A metric with a value for each token: the mean of all is its degradation, and a budget may bound their tail.

    Attributes:
        value_unit: of one token's value.
    """

    value_unit: str

    @abstractmethod
    def values(
        self,
        dense: Sequence[torch.Tensor],
        hybrid: Sequence[torch.Tensor],
        batch: Batch,
        interface: Interface,
    ) -> list[torch.Tensor]:
        """Return float64 `[tokens]` for each row of a batch; arguments and errors as those of `score`."""

    def score(
        self,
        dense: Sequence[torch.Tensor],
        hybrid: Sequence[torch.Tensor],
        batch: Batch,
        interface: Interface,
    ) -> list[DocumentScore]:
        return [
            # Rounding alone may leave a sum just below zero.
            DocumentScore(max(float(row.sum()), 0.0), float(len(row)), len(row))
            for row in self.values(dense, hybrid, batch, interface)
        ]


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


def next_token_rows(
    outputs: Sequence[torch.Tensor], batch: Batch, interface: Interface, name: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of every token `[B, S, V]`, and the tokens, int64 `[B, S]` on the same device.

    Raises:
        UsageError: the output is no such logits.
    """
    rows = output_rows(outputs, interface, name)
    if batch.tokens is None or batch.tokens.shape != rows.shape[:2]:
        raise UsageError(
            f"metric {name} needs logits of every token, the model's output is {list(rows.shape)}"
        )
    return rows, batch.tokens.to(rows.device)


def row_valid(rows: torch.Tensor, batch: Batch, index: int) -> torch.Tensor:
    """Return bool `[tokens]`, which of a row's tokens count: all, unless the output has one per input token."""
    if batch.valid is None or batch.valid.shape[1] != rows.shape[1]:
        return torch.ones(rows.shape[1], dtype=torch.bool, device=rows.device)
    return batch.valid[index].to(rows.device)


def likeliest(logits: torch.Tensor, kind: str, where: str) -> torch.Tensor:
    """Return the index of each row's largest logit, int64 `[tokens]`, of logits `[tokens, V]`.

    Raises:
        UsageError: a logit is NaN or infinite, see `check_finite`.
    """
    check_finite(float(logits.sum(dtype=torch.float64)), kind, where)
    return logits.argmax(-1)


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


def allowed_below(name: str, least: float, what: str, example: float) -> float:
    """Return the degradation that a budget allows which names the least `what`, at best 1.

    Raises:
        UsageError: the least one is above 1.
    """
    if least > 1:
        raise UsageError(
            f"budget {name}={least:g} is above 1: write the least {what}, such as {name}={example:g}"
        )
    return 1.0 - least
