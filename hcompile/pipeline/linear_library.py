"""Which library multiplies weight matrices, measured once for a machine and a shape.

Two libraries may be as fast as each other, and what is measured depends on which of them runs: a choice that fell
otherwise the next time would have everything measured anew.
"""

from __future__ import annotations

import inspect

from hcompile import linear_operator
from hcompile.passes import linear
from hcompile.passes.linear import LIBRARIES, faster_library, largest_linear
from hcompile.program import Program
from hcompile.tuning_db.key import Device
from hcompile.tuning_db.result import ResultKey
from hcompile.tuning_db.store import TuningDB
from hcompile.values import sha256_json
from hcompile.versions import library_versions


def linear_library(db: TuningDB, program: Program, device: Device) -> str:
    """Return the faster library for a program's linears, out of the database if it was measured there before."""
    weight = largest_linear(program)
    if weight is None or program.device.type != "cpu":
        return faster_library(None)
    key = ResultKey.of(
        "linear_library",
        weights_sha256=sha256_json(list(weight.shape)),
        data_sha256=sha256_json(str(weight.dtype)),
        code_sha256=sha256_json([inspect.getsource(module) for module in (linear, linear_operator)]),
        extra={"device": device.to_json(), "versions": library_versions()},
    )
    known = db.get_result(key)
    if known in LIBRARIES:
        return str(known)
    library = faster_library(weight)
    db.put_result(key, library)
    return library
