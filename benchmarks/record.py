"""How benchmarks write what they measured: JSON with the device, the versions and the date, in one folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any

from hcompile.tuning_db.key import Device
from hcompile.tuning_db.record import utc_now
from hcompile.versions import library_versions

RESULTS = Path(__file__).parent / "results"


def save(name: str, device: Device, measured: Mapping[str, Any], folder: Path) -> Path:
    """Write a benchmark's record for a device, and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}-{re.sub('[^a-z0-9]+', '-', device.model.lower()).strip('-')}.json"
    facts = {"device": device.to_json(), "versions": library_versions(), "date": utc_now()}
    target.write_text(json.dumps({**facts, **measured}, indent=1) + "\n")
    return target


def spread(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    """Return median, quartiles and minimum: of times in microseconds, or of ratios."""
    low, middle, high = quantiles(values, n=4) if len(values) > 1 else [*values] * 3
    named = {"median": middle, "quartile_low": low, "quartile_high": high, "least": min(values)}
    return {name: round(value, digits) for name, value in named.items()}


def paired(slow_us: Sequence[float], fast_us: Sequence[float]) -> list[float]:
    """Return the ratio in each round: drifts of the machine, which last for many rounds, leave it as it is."""
    return [slow / fast for slow, fast in zip(slow_us, fast_us, strict=True)]
