"""Lengths beyond the planned ones add statements to a certificate and take nothing from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hcompile.errors import UsageError
from hcompile.pipeline.beyond import check_beyond, measure_beyond, read_longer
from hcompile.policy.certificate import Certificate
from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface
from hcompile.program import Program
from hcompile.runtime.inputs import length_axis

CERTIFICATE = Certificate.from_json(
    json.loads((Path(__file__).parents[1] / "data" / "certificate-2.json").read_bytes())
)


def documents(length: int) -> tuple[Document, ...]:
    return tuple(Document(str(index), {"ids": torch.full((length,), index)}) for index in range(2))


def measured(found: Sequence[Document]) -> Certificate:
    """A measurement whose bound grows with the length, and that fails where there are more than 40000 tokens."""
    length = len(found[0].tensors["ids"])
    if length > 50000:
        raise torch.OutOfMemoryError("no room")
    if length > 40000:
        raise UsageError("the output is not finite")
    (claim,) = CERTIFICATE.claims
    return replace(
        CERTIFICATE, claims=(replace(claim, bound=1e-7 * length),), shortest=length, longest=length
    )


def test_a_length_that_does_not_hold_is_stated_and_the_certificate_holds() -> None:
    longer = {length: documents(length) for length in (8192, 32768)}
    found, warnings = measure_beyond(CERTIFICATE, longer, measured)
    assert [(step.length, step.holds) for step in found.beyond] == [(8192, True), (32768, False)]
    assert (found.holds, found.covers, warnings) == (True, 8192, ())
    assert replace(found, beyond=()) == CERTIFICATE


def test_a_length_that_cannot_be_measured_is_a_warning() -> None:
    longer = {length: documents(length) for length in (8192, 45000, 60000)}
    found, warnings = measure_beyond(CERTIFICATE, longer, measured)
    assert [step.length for step in found.beyond] == [8192]
    assert warnings == (
        "--beyond 45000: not measured: the output is not finite",
        "--beyond 60000: not measured, the device has no room for such documents",
    )


def test_lengths_rise_and_are_those_that_the_export_allows(tiny_program: Program) -> None:
    axis = length_axis(tiny_program)
    assert check_beyond((512, 256, 512), 128, tiny_program, axis) == (256, 512)
    with pytest.raises(UsageError, match="--beyond 128: the plan is made for 128 tokens: name a greater"):
        check_beyond((256, 128), 128, tiny_program, axis)
    with pytest.raises(UsageError, match="--beyond 513: the model was made for at most 512 tokens"):
        check_beyond((513,), 128, tiny_program, axis)


def test_a_model_that_takes_no_text_has_nothing_to_cut(tiny_program: Program) -> None:
    interface = Interface.of(tiny_program)
    assert read_longer((), None, interface, None, planned=128, seed=0) == ({}, ())
    with pytest.raises(UsageError, match="pass --calib"):
        read_longer((256,), None, interface, None, planned=128, seed=0)
