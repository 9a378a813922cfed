"""What a shadow has seen so far: frozen, with one JSON form."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from hcompile.checks import check_bool, check_int, check_number, check_object, check_text, shown

_COUNTS = ("calls", "sampled", "dropped", "failed", "compared", "window", "drifts")


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """See the module's docstring.

    Attributes:
        artifact: whose calls.
        metric, unit: what is compared.
        limit: the largest degradation that is no drift.
        calls: hybrid calls; dense ones are not counted.
        sampled: calls that were chosen; each is dropped, failed, compared or still held.
        dropped: no place was free for them, or a CUDA graph recorded the call.
        failed: an error kept them from being compared.
        compared: samples that were judged.
        window: the last of these, which the next three are of.
        mean: their degradation, as the certificate counts it; None before the first.
        lower, upper: its one-sided 95 % bounds, for one look; None until there are enough samples.
        recent: the degradation of the last samples alone, as many as are enough; a drift that is found at once shows
            here before it shows in the mean.
        evidence: how much speaks for a drift, or within one for its end; 20 is enough (`hcompile.policy.drift`).
        drifting: a drift was found, and its end was not.
        drifts: how many were found.
    """

    artifact: str
    metric: str
    unit: str
    limit: float
    calls: int
    sampled: int
    dropped: int
    failed: int
    compared: int
    window: int
    mean: float | None
    lower: float | None
    upper: float | None
    recent: float | None
    evidence: float
    drifting: bool
    drifts: int

    def __post_init__(self) -> None:
        check_text("shadow: artifact", self.artifact, 4096)
        check_text("shadow: metric", self.metric)
        check_text("shadow: unit", self.unit)
        check_number("shadow: limit", self.limit)
        check_number("shadow: evidence", self.evidence)
        check_bool("shadow: drifting", self.drifting)
        for name in _COUNTS:
            check_int(f"shadow: {name}", getattr(self, name))
        for name in ("mean", "lower", "upper", "recent"):
            value = getattr(self, name)
            if value is not None and (type(value) is not float or not math.isfinite(value)):
                raise ValueError(f"shadow: {name} is {shown(value)}, wanted a finite float or nothing")
        ended = self.dropped + self.failed + self.compared
        if not (self.window <= self.compared and ended <= self.sampled <= self.calls):
            raise ValueError(
                f"shadow: {self.window} of {self.compared} compared, {self.dropped} dropped, {self.failed} failed, "
                f"{self.sampled} sampled, {self.calls} calls: the counts do not fit"
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> ShadowReport:
        """Raises: ValueError when `value` is no report."""
        return cls(**check_object("shadow", value, (field.name for field in fields(cls))))
