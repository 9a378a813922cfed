"""What a removal curve found, measured: frozen, with one JSON form and one as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from hcompile.checks import check_int, check_object, check_sha256, check_text, shown
from hcompile.plan import Plan
from hcompile.site import Site

SCHEMA = 1

MAIN = "allocation"
CURVES = (MAIN, "heads", "layers", "uniform", "interleaved")
"""Curves, see `hcompile.policy.removal`; the first one is the policy's own."""

_COLUMNS = (
    "curve",
    "family",
    "length",
    "target",
    "left",
    "estimate",
    "low",
    "high",
    "documents",
    "plan_sha256",
)


@dataclass(frozen=True, slots=True)
class Point:
    """One plan of one curve, measured jointly.

    Attributes:
        curve: one of `CURVES`.
        family: of the patterns that it chose from, "" for all of them.
        length: tokens of a row.
        target: the share of the model's own pairs that it was to leave at most; points of one target are compared.
        left: the share that it leaves.
        estimate: the degradation over all documents, in the metric's unit.
        low, high: the ends of its confidence interval, documents resampled, those of one origin together.
        documents: how many were compared.
    """

    curve: str
    family: str
    length: int
    target: float
    left: float
    estimate: float
    low: float
    high: float
    documents: int
    plan: Plan

    def __post_init__(self) -> None:
        if self.curve not in CURVES:
            raise ValueError(f"point of curve {shown(self.curve)}: there are {', '.join(CURVES)}")
        check_text("point: family", self.family, empty=True)
        check_int("point: length", self.length, 1)
        check_int("point: documents", self.documents, 1)
        for name in ("target", "left"):
            share = getattr(self, name)
            if type(share) is not float or not 0 < share <= 1:
                raise ValueError(f"point: {name} is {shown(share)}, wanted a share of pairs in (0, 1]")
        ends = (self.low, self.estimate, self.high)
        if not all(type(end) is float and math.isfinite(end) for end in ends) or list(ends) != sorted(ends):
            raise ValueError(f"point: low, estimate and high are {shown(ends)}, wanted finite rising floats")

    def to_json(self) -> dict[str, Any]:
        mine = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**mine, "plan": self.plan.to_json()}

    @classmethod
    def from_json(cls, value: Any) -> Point:
        """Raises: ValueError when `value` is no point."""
        found = check_object("point", value, (field.name for field in fields(cls)))
        return cls(**{**found, "plan": Plan.from_json(found["plan"])})


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What each head alone, and each layer alone, is predicted to lose under a narrow pattern.

    Attributes:
        length: tokens of a row.
        patterns: label by layer, "" where the layer's pattern has no narrower one of the family.
        heads: predicted degradation, by layer and query head.
        layers: the same of all heads of a layer together, by layer.
    """

    length: int
    family: str
    patterns: tuple[str, ...]
    heads: tuple[tuple[float, ...], ...]
    layers: tuple[float, ...]

    def __post_init__(self) -> None:
        check_int("sensitivity: length", self.length, 1)
        check_text("sensitivity: family", self.family)
        if not len(self.patterns) == len(self.heads) == len(self.layers) > 0:
            raise ValueError("sensitivity: patterns, heads and layers must be of the same layers")
        losses = [*self.layers, *(loss for row in self.heads for loss in row)]
        if not all(type(loss) is float and math.isfinite(loss) for loss in losses):
            raise ValueError("sensitivity: losses must be finite floats")

    def to_json(self) -> dict[str, Any]:
        lists = {"patterns": [*self.patterns], "heads": [*map(list, self.heads)], "layers": [*self.layers]}
        return {**asdict(self), **lists}

    @classmethod
    def from_json(cls, value: Any) -> Sensitivity:
        """Raises: ValueError or TypeError when `value` is no sensitivity."""
        found = check_object("sensitivity", value, (field.name for field in fields(cls)))
        rows = tuple(tuple(row) for row in found["heads"])
        patterns, layers = tuple(found["patterns"]), tuple(found["layers"])
        return cls(**{**found, "patterns": patterns, "heads": rows, "layers": layers})


@dataclass(frozen=True, slots=True)
class Verdict:
    """How much can go within a limit, by the main curve at one length.

    Attributes:
        limit: of the degradation.
        held: the largest share of pairs removed before an interval's upper end is past the limit; 0 for none.
        passed: the share removed at the first point where it is; None where none was.
    """

    length: int
    limit: float
    held: float
    passed: float | None


@dataclass(frozen=True, slots=True)
class Ablation:
    """See the module's docstring.

    Attributes:
        model: what the user named.
        metric, unit: what was measured.
        budget: as it was written, "" for none.
        limits: of the degradation, rising, that verdicts are given for; empty for a metric without usual ones.
        confidence: of the intervals.
        source: where the measured documents come from.
        data_sha256: of the measured documents, one for each of `lengths`.
        dense_pairs: (query, key) pairs of the model's own attention in one row, one for each of `lengths`.
        points: in the order in which curves are told.
        warnings: one line each.
    """

    model: str
    metric: str
    unit: str
    budget: str
    limits: tuple[float, ...]
    confidence: float
    source: str
    dtype: str
    device: str
    seed: int
    sites: tuple[Site, ...]
    lengths: tuple[int, ...]
    data_sha256: tuple[str, ...]
    dense_pairs: tuple[int, ...]
    points: tuple[Point, ...]
    sensitivities: tuple[Sensitivity, ...]
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError(f"ablation: lengths {self.lengths} do not rise")
        if not len(self.lengths) == len(self.data_sha256) == len(self.dense_pairs):
            raise ValueError("ablation: data and pairs must be given for each length")
        for digest in self.data_sha256:
            check_sha256("ablation: data", digest)
        if not 0 < self.confidence < 1 or list(self.limits) != sorted(set(self.limits)):
            raise ValueError(
                f"ablation: confidence {self.confidence} or limits {self.limits} are out of range"
            )
        heads = [site.q_heads for site in self.sites]
        for point in self.points:
            point.plan.check(self.sites)
        told = {each.length for each in self.points} | {each.length for each in self.sensitivities}
        if not told <= set(self.lengths):
            raise ValueError(f"ablation: lengths {sorted(told)} are not all among {self.lengths}")
        for sensitivity in self.sensitivities:
            if [*map(len, sensitivity.heads)] != heads:
                raise ValueError("ablation: a sensitivity does not fit the model's heads")

    def curve(self, name: str, length: int, family: str = "") -> tuple[Point, ...]:
        """Return the points of one curve, the most left first."""
        mine = [
            point
            for point in self.points
            if (point.curve, point.length, point.family) == (name, length, family)
        ]
        return tuple(sorted(mine, key=lambda point: -point.left))

    def verdicts(self) -> tuple[Verdict, ...]:
        """Return a verdict for each length with points and each limit."""
        return tuple(
            verdict_of(self.curve(MAIN, length), limit)
            for length in self.lengths
            for limit in self.limits
            if self.curve(MAIN, length)
        )

    def to_json(self) -> dict[str, Any]:
        parts = ("sites", "points", "sensitivities", "verdicts")
        mine = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in mine.items():
            if isinstance(value, tuple):
                mine[name] = [each.to_json() if name in parts else each for each in value]
        return {"schema": SCHEMA, **mine, "verdicts": [asdict(verdict) for verdict in self.verdicts()]}

    @classmethod
    def from_json(cls, value: Any) -> Ablation:
        """Raises: ValueError or TypeError when `value` is no ablation."""
        names = [field.name for field in fields(cls)]
        found = check_object("ablation", value, ("schema", "verdicts", *names))
        if found["schema"] != SCHEMA:
            raise ValueError(f"an ablation is an object of schema {SCHEMA}")
        readers = {"sites": Site.from_json, "points": Point.from_json, "sensitivities": Sensitivity.from_json}
        mine = {name: found[name] for name in names}
        for name, entry in mine.items():
            if isinstance(entry, list):
                read = readers.get(name)
                mine[name] = tuple(entry if read is None else map(read, entry))
        ablation = cls(**mine)
        if found["verdicts"] != ablation.to_json()["verdicts"]:
            raise ValueError("ablation: its verdicts are not what its points say")
        return ablation

    def to_csv(self) -> str:
        """Return one row for each measured plan, under a line of column names."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(_cells(self.points))
        return text.getvalue()


def verdict_of(points: Sequence[Point], limit: float) -> Verdict:
    """Return the verdict of a curve's points at one length, the most left first."""
    held, passed = 0.0, None
    for point in points:
        if point.high > limit:
            passed = 1.0 - point.left
            break
        held = 1.0 - point.left
    return Verdict(points[0].length, limit, held, passed)


def _cells(points: Iterable[Point]) -> Iterable[list[Any]]:
    for point in points:
        yield [point.plan.digest if name == "plan_sha256" else getattr(point, name) for name in _COLUMNS]
