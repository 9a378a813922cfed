"""What `hcompile bench` found: frozen, with one JSON form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """Times of one call in microseconds."""

    median_us: float
    p20_us: float
    p80_us: float
    samples: int

    @classmethod
    def of(cls, times_us: Sequence[float]) -> Spread:
        if len(times_us) < 2:
            return cls(times_us[0], times_us[0], times_us[0], len(times_us))
        fifths = quantiles(times_us, n=5, method="inclusive")
        return cls(median(times_us), fifths[0], fifths[-1], len(times_us))


@dataclass(frozen=True, slots=True)
class LengthResult:
    """One length, interleaved in one run.

    Attributes:
        module: the compiled module as a user calls it, whichever graph it takes.
        graph: "hybrid" or "dense", the graph that the module takes at this length and batch.
        dense: every dense baseline by name.
        strongest: name of the fastest of them.
        rest: the model without its attention.
        pairs_kept: share of the model's own (query, key) pairs that the plan visits.
        ratio: strongest dense over module, medians.
        ratio_low, ratio_high: 10th and 90th percentile of the ratio of single rounds.
        noisy: other work used the machine meanwhile.
        hybrid_peak_bytes, dense_peak_bytes: memory of a call, None where it was not asked for.
    """

    length: int
    module: Spread
    graph: str
    dense: Mapping[str, Spread]
    strongest: str
    rest: Spread
    pairs_kept: float
    ratio: float
    ratio_low: float
    ratio_high: float
    noisy: bool
    hybrid_peak_bytes: int | None = None
    dense_peak_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All lengths of one artifact on one machine, with one batch size.

    Attributes:
        crossover: which graph calls take, and the times that told (JSON form), as the artifact carries it.
    """

    artifact: str
    dtype: str
    device: Mapping[str, Any]
    versions: Mapping[str, str]
    linear_library: str
    measured_at: str
    load_s: float
    first_call_s: float
    batch: int
    crossover: Mapping[str, Any]
    lengths: tuple[LengthResult, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
