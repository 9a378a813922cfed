"""Refitting output projections: heads that read less come as near as a linear layer can to what dense ones return.

The projection W of an attention takes the hybrid heads' outputs X where the model was trained on the dense heads' Y.
The second weight minimises, over the tokens that see more than `start` keys,

    |X W'^T - Y W^T|^2 + RIDGE * tr(X^T X) / K * |W'^T - W^T|^2

which has a closed form, one pass over a few documents for all layers at once: W'^T = W^T + A W^T with
(X^T X + ridge) A = X^T (Y - X). Layer-wise least squares as in SparseGPT (arXiv:2301.00774), here against another
attention, not other weights. What it gained on a trained model, and what was tried beside it: decision 17.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

from hcompile.operator import Kernel
from hcompile.passes.refit import output_projections, refit_name
from hcompile.patterns import Pattern
from hcompile.plan import Plan
from hcompile.policy.attending import Attending
from hcompile.policy.batches import make_batch
from hcompile.policy.documents import Document, data_digest
from hcompile.policy.heads_under import NO_MAPS, Maps, heads_under
from hcompile.policy.interface import Interface
from hcompile.program import Program
from hcompile.progress import Progress, quiet
from hcompile.site import Site

RIDGE = 0.2
"""The pull towards the model's own weight, as a share of the mean square of what it multiplies. Of .0001 to 3, those
from .1 to .3 are the best on two models; below, single documents lose several times as much as before."""

_SHARE = 8
_TOKENS = 96 * 1024
_LEAST_DOCUMENTS, _MOST_DOCUMENTS = 12, 24


def start_for(length: int) -> int:
    """Return how many keys a token must see more of to take the second weight, for plans of `length` tokens.

    An eighth of the length: of 0, 512, 1024 and 2048 of 8192 tokens the least loss, and before it the model's own
    weight loses less (decision 17).
    """
    return max(1, length // _SHARE)


def documents_for(length: int) -> int:
    """Return how many documents of `length` tokens to fit to: fewer of them gain half as much (decision 17)."""
    return min(max(_TOKENS // length, _LEAST_DOCUMENTS), _MOST_DOCUMENTS)


class Refit:
    """The second weights of plans, by tensor name; those of the last plan are kept."""

    def __init__(
        self,
        program: Program,
        documents: Sequence[Document],
        length: int,
        *,
        interface: Interface,
        kernel: Kernel,
        maps: Maps = NO_MAPS,
        progress: Progress = quiet,
    ) -> None:
        """Prepare for plans of `length` tokens.

        Args:
            program: without second weights.
            documents: that certify nothing; read one at a time, without padding.
            kernel: computes a site's attention.
            maps: of linear far fields, by site.
        """
        self.start = start_for(length)
        self._length = length
        self._program = program
        self._documents = documents
        self._interface = interface
        self._kernel = kernel
        self._maps = maps
        self._progress = progress
        self._own = Plan.dense(program.sites)
        self._kept: tuple[Plan, dict[str, torch.Tensor]] | None = None

    def key(self) -> list[Any]:
        """What decides the weights besides the plan and the program, in JSON types."""
        return [self.start, data_digest(self._documents)]

    def weights(self, plan: Plan) -> dict[str, torch.Tensor]:
        """Return what `hcompile.passes.refit.insert_refit` takes; nothing for sites that the plan leaves dense.

        Where windows widen, the weights are for what they are at the length planned for.
        """
        plan = plan.at(self._length)
        if plan == self._own:
            return {}
        if self._kept is None or self._kept[0] != plan:
            self._kept = plan, self._fit(plan)
        return self._kept[1]

    def _under(
        self, patterns: Sequence[Pattern], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, site: Site
    ) -> torch.Tensor:
        return heads_under(patterns, q, k, v, site, self._kernel, self._maps)

    def _fit(self, plan: Plan) -> dict[str, torch.Tensor]:
        projections = output_projections(self._program)
        changed = {
            linear: site
            for site in self._program.sites
            if plan[site.name] != self._own[site.name] and (linear := projections.get(site.name)) is not None
        }
        sums = {site.name: _Sums() for site in changed.values()}
        total = len(self._documents)
        with torch.inference_mode():
            for done, document in enumerate(self._documents):
                self._progress("refit", done, total)
                inputs = make_batch([document], self._interface).inputs
                run = _Both(self._program, plan, self._own, self._under, changed, self.start, sums)
                run.run(*(value.to(self._program.device) for value in inputs))
        self._progress("refit", total, total)
        found = {}
        for linear, site in changed.items():
            weight: Any = linear.args[1]
            found[refit_name(site)] = sums[site.name].refit(self._program.tensors[weight.target])
        return found


Under = Callable[[Sequence[Pattern], torch.Tensor, torch.Tensor, torch.Tensor, Site], torch.Tensor]
"""Attention of a site's heads under these patterns."""


class _Sums:
    """X^T X and X^T (Y - X) of one site: products in float32, summed in float64. `[K, K]` each."""

    def __init__(self) -> None:
        self._square: torch.Tensor | None = None
        self._missing: torch.Tensor | None = None

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add tokens: `[tokens, K]` each, the hybrid's and the dense heads' outputs."""
        x, y = x.float(), y.float()
        square, missing = (x.T @ x).double(), (x.T @ (y - x)).double()
        self._square = square if self._square is None else self._square + square
        self._missing = missing if self._missing is None else self._missing + missing

    def refit(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the second weight, of the shape and dtype of the first `[N, K]`; the same where there is no data."""
        square, missing = self._square, self._missing
        if square is None or missing is None or not (ridge := RIDGE * square.diagonal().mean()) > 0:
            return weight.detach()
        pulled = square + ridge * torch.eye(len(square), dtype=square.dtype, device=square.device)
        wide = weight.detach().double()
        found: torch.Tensor = wide + wide @ torch.linalg.solve(pulled, missing).T
        return found.to(weight.dtype)


class _Both(Attending):
    """Runs a program under a plan, and sums what each projection gets beside what it would get from dense heads."""

    def __init__(
        self,
        program: Program,
        plan: Plan,
        own: Plan,
        under: Under,
        changed: dict[Node, Site],
        start: int,
        sums: dict[str, _Sums],
    ) -> None:
        super().__init__(program)
        self._plan, self._own, self._under = plan, own, under
        self._changed = {linear.name: site.name for linear, site in changed.items()}
        self._start = start
        self._sums = sums
        self._dense: dict[str, torch.Tensor] = {}

    def run_node(self, n: Node) -> Any:
        if n.name in self._changed:
            site = self._changed[n.name]
            x = self.env[n.args[0]]  # type: ignore[index]
            y = self._dense.pop(site).transpose(1, 2).flatten(2)
            self._sums[site].add(x[:, self._start :].flatten(0, 1), y[:, self._start :].flatten(0, 1))
        return super().run_node(n)

    def attend(self, site: Site, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if site.name in self._sums:
            self._dense[site.name] = self._under(self._own[site.name], q, k, v, site)
        return self._under(self._plan[site.name], q, k, v, site)
