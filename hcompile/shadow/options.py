"""How a model is watched."""

from __future__ import annotations

from dataclasses import dataclass

from hcompile.checks import shown
from hcompile.errors import UsageError
from hcompile.policy.drift import LEAST, WINDOW


@dataclass(frozen=True, slots=True)
class ShadowOptions:
    """See the module's docstring.

    Attributes:
        share: of the hybrid calls, which are sampled, above 0 and at most 1.
        seed: of the choice of calls: the same calls of one seed.
        window: samples that the reported mean and its bounds, and the spread that the test goes by, are of.
        least: samples before anything is reported, at least 20.
        queue: samples held at once, the one that is looked at included; further ones are dropped.
        budget: what counts as drift, such as `kl=0.003`; None for the artifact's certificate.
        metric: `package.module:function`, where the budget or the certificate is of the user's own metric.
    """

    share: float
    seed: int = 0
    window: int = WINDOW
    least: int = LEAST
    queue: int = 1
    budget: str | None = None
    metric: str | None = None

    def __post_init__(self) -> None:
        if type(self.share) not in (int, float) or not 0 < self.share <= 1:
            raise UsageError(
                f"shadow: share {shown(self.share)} is no part of the calls: pass one above 0 and at most 1, "
                "such as 0.001"
            )
        for name, least in (("least", LEAST), ("window", self.least), ("queue", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UsageError(f"shadow: {name} {shown(value)} is too small: pass at least {least}")
