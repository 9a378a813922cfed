"""Built files of backends whose code is kept elsewhere: JSON that names the schedule and what its code takes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hcompile.checks import check_object
from hcompile.errors import EnvironmentFault, KernelError
from hcompile.locked_folder import locked_folder
from hcompile.tuning_db.location import cache_dir
from hcompile.values import sha256_json


def write_built(
    template: str,
    content: Mapping[str, Any],
    folder: Path | None,
    compile_facts: Callable[[], Mapping[str, float]],
) -> Path:
    """Return the file of a schedule in `folder` (default: the cache); compile it now unless the file is there.

    Args:
        content: everything that decides what is compiled, the schedule among it.
        compile_facts: compiles, and returns what the code takes. Raises: KernelError.

    Raises:
        EnvironmentFault: the folder cannot be written.
    """
    folder = folder or cache_dir() / "kernels"
    path = folder / f"{template}-{sha256_json(content)[:32]}.json"
    if path.exists():
        return path
    facts = dict(compile_facts())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked_folder(".build-", folder) as work:
            written = work / path.name
            written.write_text(json.dumps({"schedule": content["schedule"], "facts": facts}))
            os.replace(written, path)
    except OSError as error:
        raise EnvironmentFault(
            f"{folder}: a kernel cannot be written ({error}); make it writable or set HCOMPILE_CACHE_DIR"
        ) from error
    return path


def read_built(path: Path) -> dict[str, Any]:
    """Return the schedule and the facts of a built file. Raises: KernelError when it is none."""
    try:
        return check_object(f"kernel {path}", json.loads(path.read_text()), ("schedule", "facts"))
    except (OSError, ValueError) as error:
        raise KernelError(f"{path}: no kernel ({error}); delete it, it is built again") from error
