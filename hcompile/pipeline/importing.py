"""The first stage: a model in, a program out whose raised attention all has kernels."""

from __future__ import annotations

from dataclasses import replace

from hcompile.codegen import get_backend
from hcompile.errors import UsageError
from hcompile.frontend.load import ImportedModel
from hcompile.left import LeftDense
from hcompile.passes.lower import lower_dense
from hcompile.passes.sites import KEY_MASK, Q, arguments
from hcompile.program import Program
from hcompile.runtime.dispatch import compute_dtype


def fit_to(backend: str, model: ImportedModel) -> ImportedModel:
    """Return the model; attention that the backend has no kernel for goes back to torch's own, named in `left`.

    Raises:
        UsageError: none of the model's attention can be rewritten; the message says why.
    """
    model = replace(model, program=_keep_supported(model.program, backend))
    if not model.program.sites:
        reasons = "; ".join(f"{left.name}: {left.reason}" for left in model.program.left[:3])
        why = f" ({reasons})" if reasons else ": no scaled dot-product attention was found in its graph"
        raise UsageError(
            f"{model.source}: the model has no attention that can be rewritten{why}; `hcompile inspect` lists all"
        )
    return model


def _keep_supported(program: Program, backend: str) -> Program:
    if not program.sites:
        return program
    kernels, dtype = get_backend(backend), compute_dtype(program)
    reasons = {}
    padded = False
    for site, node in program.attention_nodes():
        queries = str(arguments(node)[Q].meta["val"].dtype).removeprefix("torch.")
        if not kernels.supports(dtype, site.head_dim):
            other = ": pass --dtype bfloat16" if kernels.supports("bfloat16", site.head_dim) else ""
            reasons[site.name] = f"{backend} has no kernel for {dtype} heads of {site.head_dim}{other}"
        elif queries != dtype:
            reasons[site.name] = f"its queries are {queries} and most weights {dtype}"
        if site.name in reasons:
            padded = padded or arguments(node)[KEY_MASK] is not None
    if not reasons:
        return program
    left = tuple(LeftDense(name, reason) for name, reason in reasons.items())
    lowered = lower_dense(program, padded=padded, only=set(reasons))
    return lowered.replace(left=(*lowered.left, *left))
