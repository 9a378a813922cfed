"""A made-up result of `hcompile ablate`."""

from __future__ import annotations

from hcompile.patterns import Local
from hcompile.pipeline.ablation import MAIN, Ablation, Point, Sensitivity
from hcompile.plan import Plan
from hcompile.site import Site

SITE = Site("layer0", 0, 2, 1, 64, 0.125, causal=True)


def point(curve: str, target: float, left: float, estimate: float) -> Point:
    plan = Plan.of({"layer0": (Local(64), Local(64))})
    family = "" if curve == MAIN else "local"
    return Point(curve, family, 1024, target, left, estimate, estimate / 2, estimate * 1.5, 24, plan)


FOUND = Ablation(
    model="m",
    metric="kl",
    unit="nats a token",
    budget="",
    limits=(0.003, 0.01, 0.03),
    confidence=0.95,
    source="texts",
    dtype="float32",
    device="cpu",
    seed=0,
    sites=(SITE,),
    lengths=(1024,),
    data_sha256=("0" * 64,),
    dense_pairs=(1049600,),
    points=(
        point(MAIN, 0.75, 0.748, 0.001),
        point(MAIN, 0.5, 0.499, 0.004),
        point(MAIN, 0.25, 0.25, 0.015),
        point("heads", 0.75, 0.7, 0.0123),
        point("uniform", 0.5, 0.498, 0.02),
    ),
    sensitivities=(Sensitivity(1024, "local", ("local 64+16",), ((0.0002, 0.0314),), (0.04,)),),
)
