"""What a user asks of `hcompile optimize`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hcompile.budget import RESERVE
from hcompile.errors import UsageError
from hcompile.patterns import families

GRANULARITIES = ("head", "group", "layer")
COSTS = ("time", "pairs")


@dataclass(frozen=True, slots=True)
class OptimizeRequest:
    """One optimization.

    Attributes:
        model: a transformers folder, an archive, or weights that belong to `factory`.
        output: the artifact to write; None for the model's name with .hcm in the current folder.
        budget: `metric=limit`, or several, which must all hold.
        calib: where calibration text or inputs come from; None for the model's own sample inputs.
        widen: let windows widen with the length, up to what they are at the longest of `lengths`
            (`hcompile.policy.widen`).
        documents: how many are to profile, repair and certify with, where there are as many; None for 6, 24 and 48.
        verify: data for the certificate only; None takes a split of `calib`.
        lengths: sequence lengths to calibrate, tune and certify at; None chooses from the model.
        beyond: longer lengths, to measure the certified module at: statements, no conditions.
        granularity: what shares one pattern: each head, a KV group, or a layer.
        keep_layers: layers whose attention stays as it is.
        families: of patterns to choose from; None for all that the target has kernels for.
        cost: what a plan is to have little of: measured "time" of its heads, or the (query, key) "pairs" they visit.
        cost_at: the length whose cost that is, such as one that is served and too long for the calibration text; None
            for the longest of `lengths`.
        refit: fit the projections behind the attention to what a plan reads (`hcompile.policy.refit`).
        reserve: the share of each budget that the choice of a plan leaves alone, for text unlike the calibration's; the
            certificate is held against the whole budget.
        plan: a plan file to take as given.
        dry_run: write the plan as JSON and stop.
        trials: kernels measured for each workload, None for the default.
        factory, metric: `package.module:function` of the user's.
        dtype: None for the one the weights are saved in.
        trust: load archives that could run code.
        seed, time_limit_s: repeatability, and when to stop tuning and repairing.
        db: path or URL of the tuning database.
    """

    model: str
    output: Path | None = None
    budget: str | Sequence[str] = "kl=0.003"
    calib: str | None = None
    verify: str | None = None
    documents: tuple[int, ...] | None = None
    lengths: tuple[int, ...] | None = None
    beyond: tuple[int, ...] = ()
    widen: bool = False
    granularity: str = "head"
    keep_layers: tuple[int, ...] = ()
    families: tuple[str, ...] | None = None
    cost: str = "time"
    cost_at: int | None = None
    refit: bool = False
    reserve: float = RESERVE
    plan: Path | None = None
    dry_run: bool = False
    trials: int | None = None
    factory: str | None = None
    metric: str | None = None
    dtype: str | None = None
    trust: bool = False
    seed: int = 0
    time_limit_s: float | None = None
    db: str | None = None
    backend: str = "tvm_cpu"

    def __post_init__(self) -> None:
        if self.granularity not in GRANULARITIES:
            raise UsageError(f"granularity {self.granularity!r} is not one of {', '.join(GRANULARITIES)}")
        if self.cost not in COSTS:
            raise UsageError(f"cost {self.cost!r} is not one of {', '.join(COSTS)}")
        if self.cost_at is not None and self.cost_at < 1:
            raise UsageError(f"a cost at {self.cost_at} tokens: give a length")
        if self.cost_at is not None and self.plan is not None:
            raise UsageError(
                "--cost-at is for plans that are chosen, and --plan gives one: leave one of them out"
            )
        if self.widen and self.plan is not None:
            raise UsageError(
                "--widen is for plans that are chosen, and --plan gives one: leave one of them out"
            )
        unknown = set(self.families or ()) - set(families())
        if unknown or self.families == ():
            raise UsageError(f"families {sorted(unknown)} are not among {', '.join(families())}")
        if self.documents is not None and len(self.documents) != 3:
            raise UsageError(
                f"documents {self.documents}: give three numbers, to profile, repair and certify with"
            )
        if not 0 <= self.reserve < 1:
            raise UsageError(
                f"a reserve of {self.reserve} is no share of a budget: give one from 0 to below 1"
            )
        if self.lengths is not None and (not self.lengths or min(self.lengths) < 1):
            raise UsageError(f"lengths {self.lengths} are no positive numbers")
        if self.widen and len(set(self.lengths or ())) < 2:
            raise UsageError(
                "--widen lets windows widen from one length to another: name both, as in --lengths 2048,4096"
            )
        if min(self.beyond, default=1) < 1:
            raise UsageError(f"lengths beyond {self.beyond} are no positive numbers")

    @property
    def budgets(self) -> tuple[str, ...]:
        """The budgets as they were written."""
        return as_budgets(self.budget)

    @property
    def target(self) -> Path:
        """Where the result goes."""
        if self.output is not None:
            return self.output
        name = Path(self.model).name or "model"
        return Path(f"{name}.plan.json" if self.dry_run else f"{name}.hcm")


def as_budgets(budget: str | Sequence[str]) -> tuple[str, ...]:
    """Return one budget, or several, as a tuple."""
    return (budget,) if isinstance(budget, str) else tuple(budget)
