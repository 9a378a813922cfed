"""What Taylor scores expand: a differentiable degradation, and random probes whose square stands for its curvature.

A probe is a random scalar of the model's outputs with E[(change of the probe)^2] / 2 = the degradation to second
order, summed over tokens. For KL it is the log likelihood of labels drawn from the model's own distribution (Fisher's
information); for the cosine a random projection of the unit vectors.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F


class Surrogate(Protocol):
    """Both functions sum over all tokens; `rows` and `dense` are outputs `[tokens, features]`."""

    def loss(self, rows: torch.Tensor, dense: torch.Tensor) -> torch.Tensor: ...

    def probe(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor: ...


class Likelihood:
    """For outputs that are logits."""

    def loss(self, rows: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        return F.kl_div(rows.log_softmax(-1), dense.log_softmax(-1), reduction="sum", log_target=True)

    def probe(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        log_p = rows.log_softmax(-1)
        labels = torch.multinomial(log_p.detach().exp(), 1, generator=generator)
        return log_p.gather(1, labels).sum()


class Direction:
    """For outputs of which the direction counts."""

    def loss(self, rows: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        return (F.normalize(rows, dim=-1) - F.normalize(dense, dim=-1)).square().sum() / 2

    def probe(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        signs = (
            torch.randint(0, 2, rows.shape, generator=generator, device=rows.device).to(rows.dtype) * 2 - 1
        )
        return (F.normalize(rows, dim=-1) * signs).sum()
