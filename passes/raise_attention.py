"""Raising: every attention that is understood becomes one node of `hcompile::attention`.

Raised is self-attention with as many queries as keys, one head size for Q, K and V, no dropout, weights that nothing
else reads, and a mask that is proven to be causal or not, with or without a window, with or without padding of keys.
Everything else stays as it was and is listed in `Program.left` with the reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch.fx import Graph, Node

from hcompile.left import LeftDense
from hcompile.passes.candidate import Candidate
from hcompile.passes.canonical import respell, restore
from hcompile.passes.evaluate import NotUnderstood, same_size
from hcompile.passes.layout import Heads, Probe, call, find_heads
from hcompile.passes.mask_probes import Shape
from hcompile.passes.mask_proof import KeyPadding, MaskProof, prove_mask
from hcompile.passes.match_eager import match_eager
from hcompile.passes.match_sdpa import match_closed, match_sdpa
from hcompile.passes.sites import (
    MATCH_META,
    accept_strides,
    free_name,
    insert_attention,
    module_name,
    settle_sites,
)
from hcompile.program import Program

_aten = torch.ops.aten


def raise_attention(program: Program) -> Program:
    """Return the program with its attention raised; attention that is raised already stays."""
    with _one_thread():
        return _raise(program)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Evaluate on one thread: the tensors of proofs are so small that waking others costs more than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _raise(program: Program) -> Program:
    work = _Work(program, program.edit(), _probe(program))
    spelled = respell(work.graph)
    retired = {spelling.node for spelling in spelled}
    windows = {site.name: site.window for site in program.sites}
    left = {entry.name: entry.reason for entry in program.left}
    kept = frozenset(left)
    raised: set[str] = set()
    failed: set[str] = set()
    guards = list(program.guards)
    for candidate in [*match_sdpa(work.graph), *match_eager(work.graph, program.tensors, retired)]:
        name = module_name(candidate.output if candidate.weights is None else candidate.weights)
        try:
            q, k, v, proof = work.understand(candidate)
        except NotUnderstood as error:
            failed.add(name)
            if name not in kept:
                left[free_name(name, left)] = str(error)
            continue
        raised.add(name)
        name = free_name(name, windows)
        windows[name] = proof.meaning.window
        work.replace(candidate, (q, k, v), proof, name)
        guard = None if proof.padding is None else proof.padding.guard
        if guard is not None and guard not in guards:
            guards.append(guard)
    for node, reason in match_closed(work.graph):
        left[free_name(module_name(node), left)] = reason
    restore(spelled, work.raised)
    # What was left before is not left any more if all that its module computes was raised now.
    for name in kept & (raised - failed):
        del left[name]
    entries = tuple(LeftDense(name, reason) for name, reason in left.items())
    return settle_sites(program, work.graph, windows, left=entries, guards=tuple(guards))


@dataclass(frozen=True, slots=True)
class _Work:
    """One run of the pass: the graph that it changes, and what it has proven and made so far."""

    program: Program
    graph: Graph
    probe: Probe
    proofs: dict[tuple[Node | None, str], MaskProof] = field(default_factory=dict)
    key_masks: dict[tuple[Node, bool], Node] = field(default_factory=dict)
    raised: set[Node] = field(default_factory=set)

    def understand(self, candidate: Candidate) -> tuple[Heads, Heads, Heads, MaskProof]:
        """Return the operands and the meaning of a candidate's mask.

        Raises:
            NotUnderstood: the operator cannot express it, or that it does cannot be shown.
        """
        if candidate.refusal is not None:
            raise NotUnderstood(candidate.refusal)
        ranks = {node.meta["val"].dim() for node in (candidate.q, candidate.k, candidate.v)}
        dtypes = {
            node.meta["val"].dtype for node in (candidate.q, candidate.k, candidate.v, candidate.output)
        }
        if ranks not in ({3}, {4}) or len(dtypes) > 1:
            raise NotUnderstood("Q, K and V are not of three or four dimensions and one dtype")
        q, k, v = _operands(candidate, self.probe)
        if not same_size(q.length, k.length):
            raise NotUnderstood("its queries and keys differ in length (cross-attention)")
        if not q.head_dim == k.head_dim == v.head_dim:
            raise NotUnderstood("Q, K and V differ in head size")
        shape = Shape(q.batch, q.count, q.length)
        # Layers mostly share one mask.
        known = (candidate.mask, f"{shape} {candidate.causal}")
        if candidate.weights is not None:
            return q, k, v, prove_mask(candidate, shape, self.program.tensors, self.program.dims)
        if known not in self.proofs:
            self.proofs[known] = prove_mask(candidate, shape, self.program.tensors, self.program.dims)
        return q, k, v, self.proofs[known]

    def replace(
        self, candidate: Candidate, operands: tuple[Heads, Heads, Heads], proof: MaskProof, name: str
    ) -> None:
        """Put an attention node in the candidate's place."""
        output = candidate.output
        q, k, v = (heads.emit(self.graph, output) for heads in operands)
        scale = candidate.scale * operands[0].factor * operands[1].factor
        key_mask = None if proof.padding is None else self.key_mask(proof.padding)
        node = insert_attention(self.graph, output, q, k, v, key_mask, scale, proof.meaning.causal, name)
        node.meta[MATCH_META] = candidate.match
        if output.meta["val"].dim() == 3:
            with self.graph.inserting_before(output):
                node = call(self.graph, _aten.flatten.using_ints, node, 0, 1)
        output.replace_all_uses_with(node)
        self.graph.erase_node(output)
        self.raised.add(output)
        accept_strides(node)

    def key_mask(self, padding: KeyPadding) -> Node:
        """Return the bool `[B, S]` node that is True for valid keys."""
        source, inverted = padding.source, padding.inverted
        if (source, inverted) not in self.key_masks:
            self.key_masks[source, inverted] = self._make_key_mask(source, inverted)
        return self.key_masks[source, inverted]

    def _make_key_mask(self, source: Node, inverted: bool) -> Node:
        with self.graph.inserting_after(source):
            if source.meta["val"].dtype != torch.bool:
                return call(self.graph, (_aten.eq if inverted else _aten.ne).Scalar, source, 0)
            return call(self.graph, _aten.logical_not.default, source) if inverted else source


def _probe(program: Program) -> Probe:
    sets = []
    for turn in (0, 1):
        sizes = {}
        for place, (name, (least, most)) in enumerate(program.dims.items()):
            size = max(least, 2 + (place + turn) % max(2, len(program.dims)))
            sizes[name] = size if most is None else min(size, most)
        sets.append(sizes)
    return Probe(program.tensors, tuple(sets))


def _operands(candidate: Candidate, probe: Probe) -> tuple[Heads, Heads, Heads]:
    """Return where Q, K and V come from: all heads of Q, and as few heads of K and V as hold all they hold."""
    queries = [heads for heads in find_heads(candidate.q, probe, scaled=True) if heads.repeats == 1]
    if not queries:
        raise NotUnderstood("the heads of Q cannot be told apart")
    most = max(heads.count for heads in queries)
    q = _last_gain([heads for heads in queries if heads.count == most])
    keys = [heads for heads in _keys(candidate, probe) if same_size(heads.batch, q.batch)]
    values = [
        heads for heads in find_heads(candidate.v, probe, scaled=False) if same_size(heads.batch, q.batch)
    ]
    shared = {heads.count for heads in keys} & {heads.count for heads in values}
    fitting = [count for count in shared if q.count % count == 0]
    if not fitting:
        raise NotUnderstood("the heads of K and V cannot be told apart, or do not fit those of Q")
    fewest = min(fitting)
    k = _last_gain([heads for heads in keys if heads.count == fewest])
    v = next(heads for heads in values if heads.count == fewest)
    if not same_size(k.length, v.length):
        raise NotUnderstood("its keys and values differ in length")
    return q, k, v


def _last_gain(found: list[Heads]) -> Heads:
    """Return the nearest source behind the last scaling, so that the scaling goes into the node."""
    last = found[-1].factor
    return next(heads for heads in found if heads.factor == last)


def _keys(candidate: Candidate, probe: Probe) -> list[Heads]:
    if not candidate.k_transposed:
        return find_heads(candidate.k, probe, scaled=True)
    graph = candidate.k.graph
    with graph.inserting_after(candidate.k):
        rows = call(graph, _aten.transpose.int, candidate.k, -2, -1)
    found = find_heads(rows, probe, scaled=True)
    if not any(heads.source is rows for heads in found):
        graph.erase_node(rows)
    return found
