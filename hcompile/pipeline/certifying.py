"""Measuring the lowered module's quality against the dense model, for the certificate and for `hcompile verify`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from hcompile.policy.certificate import Certificate
from hcompile.policy.certify import certify
from hcompile.policy.documents import Document
from hcompile.policy.goal import Goal
from hcompile.policy.interface import Interface
from hcompile.policy.measure import Call, Comparison
from hcompile.policy.text import Encoder, encoder_of
from hcompile.program import Program
from hcompile.progress import Progress
from hcompile.runtime.dense import dense_call, unpadded
from hcompile.runtime.inputs import vocabulary
from hcompile.runtime.module import Lowered, graphs_without_padding


def certify_lowered(
    program: Program,
    lowered: Lowered,
    interface: Interface,
    documents: Sequence[Document],
    *,
    encode: Encoder | None,
    goals: Sequence[Goal],
    domain: str,
    dtype: str,
    device: str,
    confidence: float,
    seed: int,
    progress: Progress,
    stage: str = "certify",
) -> Certificate:
    """Compare the hybrid graph, as it will run, with the dense model on torch's own attention."""
    if program.plan is None:
        raise ValueError("certify_lowered wants a program with a plan: run select first")
    comparison = Comparison(
        dense=_dense(program, lowered, interface),
        hybrid=_hybrid(program, lowered, interface),
        interface=interface,
        metrics=[goal.metric for goal in goals],
        encode=encode,
        seed=seed,
        progress=progress,
    )
    return certify(
        comparison,
        documents,
        goals=goals,
        domain=domain,
        dtype=dtype,
        device=device,
        plan_sha256=program.plan.digest,
        confidence=confidence,
        seed=seed,
        stage=stage,
    )


def text_encoder(program: Program, interface: Interface, source: str) -> Encoder | None:
    """Return how the model reads text, None where it takes none; a model that cannot says so when it meets text."""
    if interface.tokens is None:
        return None
    folder, name = Path(source), program.inputs[interface.tokens].name

    @cache
    def found() -> Encoder:
        return encoder_of(folder if folder.is_dir() else None, vocabulary(program, name))

    return lambda text: found()(text)


def _dense(program: Program, lowered: Lowered, interface: Interface) -> Call:
    """Return the dense model: as it was exported where that graph is kept, else as `dense_call` has it."""
    raised = dense_call(program, lowered, interface.mask)

    def run(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        inputs = tuple(value.to(program.device) for value in inputs)
        return raised(inputs) if lowered.original is None else lowered.original(*inputs)

    return run


def _hybrid(program: Program, lowered: Lowered, interface: Interface) -> Call:
    """Return the hybrid model: the graph that a call of `hcompile.load`'s module takes."""
    _, for_unpadded = graphs_without_padding(program, lowered)

    def run(inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        graph = for_unpadded if unpadded(inputs, interface.mask) else lowered.hybrid
        return graph(*(value.to(program.device) for value in inputs))

    return run
