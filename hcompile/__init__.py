"""hcompile: hybrid attention as an engineering decision.

    compiled = hcompile.load("model.hcm")
    logits = compiled(input_ids=ids).logits

What the names below need is imported when they are first used, so that `import hcompile` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hcompile.artifact.load import load
    from hcompile.frontend.load import load_module
    from hcompile.pipeline.ablate import AblateRequest, ablate
    from hcompile.pipeline.ablation import Ablation
    from hcompile.pipeline.optimize import optimize
    from hcompile.pipeline.report import OptimizeReport
    from hcompile.pipeline.request import OptimizeRequest
    from hcompile.runtime.module import CompiledModule
    from hcompile.shadow.options import ShadowOptions
    from hcompile.shadow.report import ShadowReport

__all__ = [
    "AblateRequest",
    "Ablation",
    "CompiledModule",
    "OptimizeReport",
    "OptimizeRequest",
    "ShadowOptions",
    "ShadowReport",
    "__version__",
    "ablate",
    "load",
    "load_module",
    "optimize",
]

__version__ = "0.1.0"

_HOMES = {
    "AblateRequest": "hcompile.pipeline.ablate",
    "Ablation": "hcompile.pipeline.ablation",
    "CompiledModule": "hcompile.runtime.module",
    "OptimizeReport": "hcompile.pipeline.report",
    "OptimizeRequest": "hcompile.pipeline.request",
    "ShadowOptions": "hcompile.shadow.options",
    "ShadowReport": "hcompile.shadow.report",
    "ablate": "hcompile.pipeline.ablate",
    "load": "hcompile.artifact.load",
    "load_module": "hcompile.frontend.load",
    "optimize": "hcompile.pipeline.optimize",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hcompile' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
