"""Calibration text for a model of Python code: sources of installed packages, none of the standard library.

    python -m benchmarks.python_text FOLDER

Copies up to `PER_PACKAGE` long .py files of each package below, chosen by a seed, under names that keep the package.
"""

from __future__ import annotations

import random
import shutil
import sys
import sysconfig
from pathlib import Path

PACKAGES = (
    "alembic", "click", "hypothesis", "matplotlib", "mypy", "networkx", "numpy", "pip", "pytest", "rich", "scipy",
    "sqlalchemy", "sympy", "torch", "transformers", "tvm", "xgboost",
)  # fmt: skip
PER_PACKAGE = 40
LEAST_BYTES = 8192


def collect(target: Path, seed: int = 0) -> int:
    """Copy the files into `target` (made if missing) and return how many there are."""
    root = Path(sysconfig.get_paths()["purelib"])
    target.mkdir(parents=True, exist_ok=True)
    count = 0
    for package in PACKAGES:
        files = sorted(file for file in (root / package).rglob("*.py") if file.stat().st_size >= LEAST_BYTES)
        for file in sorted(random.Random(seed).sample(files, min(PER_PACKAGE, len(files)))):
            shutil.copyfile(file, target / "__".join(file.relative_to(root).parts))
            count += 1
    return count


if __name__ == "__main__":
    sys.stdout.write(f"{collect(Path(sys.argv[1]))} files\n")
