"""Whether certificates hold: plans are chosen and certified, then measured on documents that nothing has seen.

    python -m benchmarks.certificates [MODEL_FOLDER] [--certificates 60] [--length 1024] [--fresh 128]

Each seed deals the files of the standard library into parts that share no file: to choose a plan (profile, repair),
to certify it, and fresh ones. On these, every budget of `BUDGETS` gets a plan and a certificate as `hcompile optimize`
does it (`hcompile.pipeline.attempts`), and each certificate that holds is one of those counted. Heads are priced by the
pairs that they visit instead of by measured times, and all plans run on one compiled graph: that changes which plans
there are, and no certificate.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.record import RESULTS, save
from hcompile.codegen import get_backend
from hcompile.frontend.load import load_model
from hcompile.operator import Kernel
from hcompile.patterns import Pattern
from hcompile.pipeline.attempts import ATTEMPTS
from hcompile.pipeline.certifying import text_encoder
from hcompile.pipeline.plan_runner import PlanRunner
from hcompile.plan import Plan
from hcompile.policy.calibration import Counts, Splits, gather
from hcompile.policy.certificate import Certificate
from hcompile.policy.certify import certify
from hcompile.policy.documents import Document
from hcompile.policy.goal import Goal, goals_of
from hcompile.policy.measure import Comparison, Remembered
from hcompile.policy.policy import Models, choose_plan
from hcompile.policy.sources import STDLIB, Item, read_source
from hcompile.policy.units import units_of
from hcompile.program import Program
from hcompile.runtime.dispatch import safe_tables
from hcompile.runtime.inputs import interface_of, length_axis
from hcompile.site import Site
from hcompile.values import sha256_json

BACKEND = "tvm_cpu"
BUDGETS = (("kl=0.003",), ("kl=0.01",), ("kl=0.03",), ("nll=1%",), ("kl=0.05", "top1=0.97"))
MODEL = Path(__file__).parents[1] / "examples" / "byte-llama"


@dataclass(frozen=True, slots=True)
class Held:
    """One certificate and what fresh documents say of each of its claims, in their order."""

    seed: int
    budgets: tuple[str, ...]
    attempt: int
    removed: float
    certificate: Certificate
    fresh: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The largest degradation on fresh documents, as a share of its budget."""
        return max(
            found / claim.limit for found, claim in zip(self.fresh, self.certificate.claims, strict=True)
        )

    @property
    def within_bound(self) -> bool:
        """Whether no degradation on fresh documents is above the bound of its claim."""
        return all(
            found <= claim.bound for found, claim in zip(self.fresh, self.certificate.claims, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "budgets": list(self.budgets),
            "attempt": self.attempt,
            "removed": round(self.removed, 4),
            "plan_sha256": self.certificate.plan_sha256,
            "claims": [
                {"metric": claim.metric, "limit": claim.limit, "bound": claim.bound, "fresh": found}
                for claim, found in zip(self.certificate.claims, self.fresh, strict=True)
            ],
        }


class Kept:
    """What the policy measured, for the other budgets on the same documents."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def recall(self, kind: str, key: Mapping[str, Any]) -> Any | None:
        return self._values.get(sha256_json([kind, dict(key)]))

    def keep(self, kind: str, key: Mapping[str, Any], value: Any) -> None:
        self._values[sha256_json([kind, dict(key)])] = value


class Bench:
    """One model whose plans all run on one compiled graph.

    Attributes:
        length: tokens of a document.
        fresh: how many fresh documents a certificate is held against.
    """

    def __init__(self, model: Path, length: int, fresh: int) -> None:
        program = load_model(model, dtype="float32").program
        interface = interface_of(program, length_axis(program))
        encode = text_encoder(program, interface, str(model))
        runner = PlanRunner(program, safe_tables(program, BACKEND), BACKEND, "default")
        dense = partial(runner, Plan.dense(program.sites))
        self.models = Models(program, dense, runner, _kernel(program.sites[0]), interface, encode)
        self.length, self.fresh = length, fresh
        self.device = get_backend(BACKEND).device()
        self.units = units_of(program.sites, length)

    @property
    def program(self) -> Program:
        return self.models.program

    def certificates(self, seed: int) -> Iterator[Held | tuple[str, ...]]:
        """Yield for each budget what came of it: a certificate that holds, else the budgets (the model stays dense)."""
        splits, fresh = self.deal(seed)
        models, memory = replace(self.models, dense=Remembered(self.models.dense)), Kept()
        for budgets in BUDGETS:
            yield self._held(models, splits, fresh, budgets, memory, seed) or budgets

    def deal(self, seed: int) -> tuple[Splits, tuple[Document, ...]]:
        """Return the documents to choose and certify with, and the fresh ones: all whole files, none twice."""
        counts = Counts()
        files = read_source(STDLIB)
        random.Random(seed).shuffle(files)
        found = self._whole(files, counts.total + self.fresh, seed)
        first, second = counts.profile, counts.profile + counts.repair
        splits = Splits(found[:first], found[first:second], found[second : counts.total], "stdlib", "stdlib")
        return splits, found[counts.total :]

    def _whole(self, files: Sequence[Item], count: int, seed: int) -> tuple[Document, ...]:
        interface, encode = self.models.interface, self.models.encode
        found = gather(files, interface, encode, self.length, count, seed)
        if len(found) < count or any(document.unit != "whole" for document in found):
            raise click.ClickException(
                f"the standard library has too few files of {self.length} bytes: take fewer --fresh, or shorter ones"
            )
        return found

    def _held(
        self,
        models: Models,
        splits: Splits,
        fresh: Sequence[Document],
        budgets: tuple[str, ...],
        memory: Kept,
        seed: int,
    ) -> Held | None:
        goals = goals_of(budgets)
        for number, attempt in enumerate(ATTEMPTS, 1):
            tightened = [replace(goal, limit=goal.limit * attempt.share) for goal in goals]
            found = choose_plan(models, self.units, splits, tightened, self.head_us, memory=memory, seed=seed)
            if not found.holds:
                return None
            comparison = _comparison(models, found.plan, goals, seed)
            certificate = certify(
                comparison,
                splits.certify,
                goals=goals,
                domain=splits.domain,
                dtype="float32",
                device=self.device.model,
                plan_sha256=found.plan.digest,
                confidence=attempt.confidence,
                seed=seed,
            )
            if certificate.holds:
                scores = comparison.scores(fresh, "fresh")
                return Held(
                    seed,
                    budgets,
                    number,
                    found.plan.removed_share(self.program.sites, self.length),
                    certificate,
                    tuple(
                        goal.metric.statistic.estimate(each) for goal, each in zip(goals, scores, strict=True)
                    ),
                )
        return None

    def head_us(self, site: Site, pattern: Pattern) -> float:
        return pattern.visited_pairs(self.length, self.length, causal=site.causal) / 1e3


def _comparison(models: Models, plan: Plan, goals: Sequence[Goal], seed: int) -> Comparison:
    return Comparison(
        dense=models.dense,
        hybrid=partial(models.hybrid, plan),
        interface=models.interface,
        metrics=[goal.metric for goal in goals],
        encode=models.encode,
        seed=seed,
    )


def _kernel(site: Site) -> Kernel:
    """Return the safe kernel for heads like those of `site`."""
    backend = get_backend(BACKEND)
    schedule = backend.safe_schedule("float32", site.head_dim)
    return backend.load(
        backend.build(schedule, "float32", site.head_dim, group=site.group, causal=site.causal)
    )


def summary(found: Sequence[Held]) -> dict[str, Any]:
    """Return how many certificates hold on fresh documents, and how far the worst one is from its budget."""
    return {
        "certificates": len(found),
        "different_plans": len({held.certificate.plan_sha256 for held in found}),
        "within_budget": sum(held.ratio <= 1 for held in found),
        "within_bound": sum(held.within_bound for held in found),
        "largest_ratio_to_budget": max(held.ratio for held in found),
    }


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True), default=MODEL)
@click.option("--certificates", "wanted", type=click.IntRange(min=1), default=60, show_default=True)
@click.option(
    "--length", type=click.IntRange(min=128), default=1024, show_default=True, help="Bytes of a document."
)
@click.option("--fresh", type=click.IntRange(min=32), default=128, show_default=True, help="Documents.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The first one.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def main(model: Path, wanted: int, length: int, fresh: int, seed: int, output: Path) -> None:
    """Make certificates of MODEL and hold each against fresh documents."""
    bench = Bench(model, length, fresh)
    found: list[Held] = []
    dense: list[list[Any]] = []
    first = seed
    while len(found) < wanted:
        for result in bench.certificates(seed):
            if len(found) == wanted:
                break
            if isinstance(result, Held):
                found.append(result)
                click.echo(
                    f"{len(found)}: seed {seed}, {', '.join(result.budgets)}: attempt {result.attempt}, "
                    f"{result.removed:.1%} removed, {result.ratio:.2f} of the budget on fresh documents"
                )
            else:
                dense.append([seed, *result])
                click.echo(f"seed {seed}, {', '.join(result)}: dense")
        seed += 1
        if seed - first >= 5 and not found:
            raise click.ClickException("no budget gives a certificate: allow more")
    told = summary(found)
    for name, value in told.items():
        click.echo(f"{name}: {value}")
    facts = {"model": model.name, "length": length, "fresh": fresh, "dense": dense}
    record = {**facts, **told, "each": [held.to_json() for held in found]}
    click.echo(save("certificates", bench.device, record, output))


if __name__ == "__main__":
    main()
