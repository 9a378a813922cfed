"""What each family of patterns is good for: how much it removes within a budget, beside all the others without it.

    python -m benchmarks.families [--length 8192] [--budget kl=0.003] [--rounds 7]

One model, written and not trained, reads three kinds of texts. Half of its heads look a few tokens back; the others
look for tokens of a legend, wherever it stands, and among those for the ones that are like the query: by far where they
look something up, by a little where they take in what the text is about. So what a head must see is known, and differs
with the texts:

    instructions    the legend is the beginning of the text
    passages        the legend is a few passages, anywhere
    chapters        about every eighth token is of the legend, a few of it in each chapter

On each, plans are chosen for a budget from all families, and from all but one, heads priced by the pairs that they
visit (those that routed heads are chosen with counted in); fresh texts say what they lose. The whole model is timed
under both plans, in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.record import RESULTS, paired, save, spread
from hcompile.codegen import get_backend
from hcompile.frontend.load import load_module
from hcompile.passes.far_field import insert_far_field
from hcompile.patterns import Pattern, families
from hcompile.pipeline.plan_runner import PlanRunner
from hcompile.plan import Plan
from hcompile.policy.calibration import Splits
from hcompile.policy.documents import Document
from hcompile.policy.feature_maps import learn_maps
from hcompile.policy.goal import Goal, goals_of
from hcompile.policy.interface import Interface
from hcompile.policy.measure import Comparison
from hcompile.policy.policy import Models, choose_plan
from hcompile.policy.units import units_of
from hcompile.runtime.dispatch import safe_tables
from hcompile.site import Site
from hcompile.tuning.timing import Rounds, time_calls

BACKEND = "tvm_cpu"
WORDS, LEGEND = 192, 64
"""Tokens of plain text, and those after them of a legend."""
HEADS, HEAD_DIM = 6, 64
PROFILE, REPAIR, FRESH, LEARN = 3, 8, 16, 12
"""Texts for each use."""


class Reader(nn.Module):
    """Token ids `[B, S]` to logits `[B, S, WORDS + LEGEND]`: one attention, whose first half of the heads is local."""

    NEAR, FOUND = 18.0, 9.0
    """Scores, at most, of the token itself for local heads, and of any token of a legend."""

    def __init__(self, like_score: float, seed: int = 0) -> None:
        """`like_score`: at most, of a token of the legend that is like the query."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        tokens = WORDS + LEGEND

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator), requires_grad=False)

        like = normal(tokens, HEAD_DIM - 1)
        like.data *= math.sqrt(like_score) / like.norm(dim=1, keepdim=True)
        legend = (torch.arange(tokens) >= WORDS).float()[:, None] * math.sqrt(self.FOUND)
        self.queries = nn.Parameter(torch.cat([torch.full((tokens, 1), math.sqrt(self.FOUND)), like], 1))
        self.keys = nn.Parameter(torch.cat([legend, like], 1))
        self.values = normal(tokens, HEADS * HEAD_DIM)
        self.out = normal(HEADS * HEAD_DIM, tokens)
        self.out.data *= 2.0 / math.sqrt(HEADS * HEAD_DIM)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Return `{"logits": ...}`."""
        batch, length = input_ids.shape
        position = torch.arange(length, device=input_ids.device)[:, None]
        turn = position / 10000.0 ** (torch.arange(HEAD_DIM // 2, device=input_ids.device) / (HEAD_DIM // 2))
        place = torch.cat([turn.cos(), turn.sin()], 1) * math.sqrt(2 * self.NEAR / HEAD_DIM)
        half = HEADS // 2
        local = place.expand(batch, half, length, HEAD_DIM)
        q, k = (
            torch.cat([local, table[input_ids][:, None].expand(batch, half, length, HEAD_DIM)], 1)
            for table in (self.queries, self.keys)
        )
        v = self.values[input_ids].view(batch, length, HEADS, HEAD_DIM).transpose(1, 2)
        read = scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
        return {"logits": read.transpose(1, 2).reshape(batch, length, -1) @ self.out}


Write = Callable[[Tensor, torch.Generator], None]
"""Puts tokens of the legend into a text of plain words `[S]`."""


def instructions(ids: Tensor, generator: torch.Generator) -> None:
    _legend(ids[:256], generator)


def passages(ids: Tensor, generator: torch.Generator) -> None:
    for start in torch.randint(0, len(ids) * 3 // 4, (3,), generator=generator).tolist():
        _legend(ids[start : start + 128], generator)


CHAPTER, TOPICS, EVERY = 512, 4, 8
"""Tokens of a chapter, how many of the legend it draws from, and how many tokens there are to one of those."""


def chapters(ids: Tensor, generator: torch.Generator) -> None:
    length = len(ids)
    topics = WORDS + torch.randint(0, LEGEND, (-(-length // CHAPTER), TOPICS), generator=generator)
    picked = torch.randint(0, TOPICS, (length,), generator=generator)
    written = torch.rand(length, generator=generator) < 1 / EVERY
    ids[written] = topics[torch.arange(length) // CHAPTER, picked][written]


def _legend(piece: Tensor, generator: torch.Generator) -> None:
    piece[:] = torch.randint(WORDS, WORDS + LEGEND, (len(piece),), generator=generator)


KINDS: dict[str, tuple[Write, float]] = {
    "instructions": (instructions, 8.0),
    "passages": (passages, 8.0),
    "chapters": (chapters, 2.5),
}
"""How texts are written, and the score of what is like the query: looking something up, a head tells the tokens of a
legend apart; of chapters it takes all, and some more than others."""


def texts(kind: str, length: int, count: int, seed: int) -> tuple[Document, ...]:
    """Return random texts of a kind."""
    generator = torch.Generator().manual_seed(seed)
    write, _ = KINDS[kind]
    documents = []
    for index in range(count):
        ids = torch.randint(0, WORDS, (length,), generator=generator)
        write(ids, generator)
        documents.append(Document(f"{kind} {seed}.{index}", {"input_ids": ids}))
    return tuple(documents)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A plan, the share of the dense pairs that it removes, and what fresh texts lose."""

    plan: Plan
    removed: float
    loss: float


class Bench:
    """The reader of one kind of texts, whose plans all run on one compiled graph."""

    def __init__(self, length: int, kind: str) -> None:
        self.length = length
        example = torch.zeros(2, length, dtype=torch.int64)
        _, like_score = KINDS[kind]
        program = load_module(Reader(like_score), ((example,), {}), "reader").program
        interface = Interface.of(program)
        maps = learn_maps(program, texts(kind, length, LEARN, 5), interface=interface)
        runner = PlanRunner(
            insert_far_field(program, maps), safe_tables(program, BACKEND), BACKEND, "default"
        )
        backend, site = get_backend(BACKEND), program.sites[0]
        schedule = backend.safe_schedule("float32", HEAD_DIM)
        kernel = backend.load(backend.build(schedule, "float32", HEAD_DIM, group=site.group, causal=True))
        dense = partial(runner, Plan.dense(program.sites))
        self.models = Models(program, dense, runner, kernel, interface, maps=maps)
        self.device = backend.device()

    def choose(self, kind: str, goal: Goal, chosen: Sequence[str]) -> Chosen:
        """Choose a plan from some families, and measure it on fresh texts."""
        program, length = self.models.program, self.length
        splits = Splits(
            texts(kind, length, PROFILE, 1),
            texts(kind, length, REPAIR, 2),
            texts(kind, length, FRESH, 3),
            kind,
            kind,
        )
        units = units_of(program.sites, length, chosen=chosen)
        found = choose_plan(self.models, units, splits, [goal], self._pairs)
        comparison = Comparison(
            self.models.dense,
            partial(self.models.hybrid, found.plan),
            self.models.interface,
            [goal.metric],
        )
        (scores,) = comparison.scores(splits.certify, "fresh")
        removed = found.plan.removed_share(program.sites, length)
        return Chosen(found.plan, removed, goal.metric.statistic.estimate(scores))

    def times_us(self, kind: str, plans: Sequence[Plan], rounds: int) -> tuple[tuple[float, ...], ...]:
        """Time the whole model under each plan, in turn."""
        (text,) = texts(kind, self.length, 1, 4)
        ids = text.tensors["input_ids"][None]

        def call(plan: Plan) -> Tensor:
            return self.models.hybrid(plan, [ids])[0]

        return time_calls([partial(call, plan) for plan in plans], Rounds(least=rounds, most=rounds)).times_us

    def _pairs(self, site: Site, pattern: Pattern) -> float:
        return pattern.visited_pairs(self.length, self.length, causal=site.causal) / 1e3


def measure(bench: Bench, kind: str, goal: Goal, rounds: int) -> dict[str, Any]:
    """Choose plans for a kind of text, from all families and from all but one, and time them."""
    everything = bench.choose(kind, goal, families())
    without = {
        family: bench.choose(kind, goal, [name for name in families() if name != family])
        for family in families()
    }
    plans = [
        Plan.dense(bench.models.program.sites),
        everything.plan,
        *(each.plan for each in without.values()),
    ]
    dense_us, all_us, *others_us = bench.times_us(kind, plans, rounds)
    found: dict[str, Any] = {
        "kind": kind,
        "removed": round(everything.removed, 4),
        "loss": everything.loss,
        "heads": [pattern.label() for _, heads in everything.plan.choices for pattern in heads],
        "over_dense": spread(paired(dense_us, all_us), 3),
        "without": {},
    }
    for (family, other), us in zip(without.items(), others_us, strict=True):
        found["without"][family] = {
            "removed": round(other.removed, 4),
            "loss": other.loss,
            "heads": [pattern.label() for _, heads in other.plan.choices for pattern in heads],
            "gain": spread(paired(us, all_us), 3),
        }
    return found


@click.command()
@click.option(
    "--length", type=click.IntRange(min=1024), default=8192, show_default=True, help="Tokens of a text."
)
@click.option("--budget", default="kl=0.003", show_default=True)
@click.option("--rounds", type=click.IntRange(min=3), default=7, show_default=True, help="Of timing.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def main(length: int, budget: str, rounds: int, output: Path) -> None:
    """Measure what each family adds to all the others."""
    (goal,) = goals_of([budget])
    kinds = []
    for kind in KINDS:
        bench = Bench(length, kind)
        found = measure(bench, kind, goal, rounds)
        kinds.append(found)
        click.echo(
            f"{kind}: {found['removed']:.1%} of the pairs removed at {found['loss']:.2g}, "
            f"{found['over_dense']['median']:.2f}x dense; {', '.join(dict.fromkeys(found['heads']))}"
        )
        for family, other in found["without"].items():
            click.echo(
                f"    without {family}: {other['removed']:.1%} at {other['loss']:.2g}; with it "
                f"{other['gain']['median']:.2f}x as fast"
            )
    record = {"length": length, "budget": budget, "kinds": kinds}
    click.echo(save("families", bench.device, record, output))


if __name__ == "__main__":
    main()
