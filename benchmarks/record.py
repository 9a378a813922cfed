"""How benchmarks write what they measured: JSON with the device, the versions and the date, in one folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
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


def spread(times_us: tuple[float, ...]) -> dict[str, float]:
    """Return median, quartiles and minimum in microseconds."""
    low, middle, high = quantiles(times_us, n=4) if len(times_us) > 1 else times_us * 3
    named = {"median": middle, "quartile_low": low, "quartile_high": high, "least": min(times_us)}
    return {name: round(value, 1) for name, value in named.items()}
