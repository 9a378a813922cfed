"""Results as people read them: on stdout and exact; progress on stderr."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from hcompile.cli import render, tables
from hcompile.patterns import Dense, Linear, Local
from hcompile.pipeline.report import NodeTime
from hcompile.plan import Plan
from hcompile.policy.certificate import AtLength, Certificate, Claim
from hcompile.site import Site

CLAIM = Claim("kl", "nats a token", 0.003, 0.00212, 0.00271, 0.95, 500000)
CERTIFICATE = Certificate(
    claims=(CLAIM,),
    documents=64,
    shortest=4096,
    longest=8192,
    rows=2,
    padded_rows=16,
    data_sha256="0" * 64,
    domain="stdlib",
    unit_of_data="whole",
    dtype="float32",
    device="a cpu",
    plan_sha256="0" * 64,
)


@pytest.mark.parametrize(
    ("duration_s", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1 min 00 s"), (185.4, "3 min 05 s")]
)
def test_seconds_are_written_for_people(duration_s: float, text: str) -> None:
    assert render.seconds(duration_s) == text


@pytest.mark.parametrize(("latency_us", "text"), [(12.34, "0.0123"), (1234.0, "1.23"), (123456.0, "123")])
def test_milliseconds_have_three_digits(latency_us: float, text: str) -> None:
    assert render.milliseconds(latency_us) == text


def test_json_is_one_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_json({"name": "Zürich", "share": 0.5})
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"name": "Zürich", "share": 0.5}, "")


def test_json_has_no_infinity() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        render.print_json({"median": float("inf")})


def test_table_keeps_markup_as_text_and_sets_numbers_right(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_table(("name", ">ms"), [("[bold]a", "1"), ("b", "1000")])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert [line.split() for line in lines] == [
        ["name", "ms"],
        ["[bold]a", "1"],
        ["b", "1000"],
    ]
    assert lines[-1].index("1000") + 4 == lines[-2].index("1") + 1


def test_progress_without_a_terminal_is_a_line_at_the_start_and_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with render.progress() as report:
        report("tune", 0, 2)
        report("tune", 1, 2)
        report("write", 0, None)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"tune \.\.\.\ntune: [\d.]+ s\nwrite \.\.\.\nwrite: [\d.]+ s\n", err)


def test_plan_counts_the_heads_of_each_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    site = Site("layer0", 0, 4, 2, 64, 0.125, causal=True)
    tables.print_plan(Plan.of({"layer0": [Dense(), Local(256, 16), Local(256, 16), Local(64)]}), [site])
    assert "4/2 of 64         2 local 256+16, 1 dense, 1 local 64+0" in capsys.readouterr().out


def test_a_plan_tells_of_heads_that_were_learnt(capsys: pytest.CaptureFixture[str]) -> None:
    site = Site("layer0", 0, 4, 2, 64, 0.125, causal=True)
    tables.print_plan(Plan.of({"layer0": [Dense(), Linear(64, 16), Linear(64, 16), Local(64)]}), [site])
    assert "2 linear heads, with features learnt from the calibration data\n" in capsys.readouterr().out
    tables.print_plan(Plan.of({"layer0": [Dense(), Local(64), Local(64), Local(64)]}), [site])
    assert "learnt" not in capsys.readouterr().out


def test_certificate_names_its_bound_and_its_domain(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_certificate(CERTIFICATE)
    assert capsys.readouterr().out == (
        "kl 0.00212 nats a token, at most 0.00271 with 95% confidence: the budget of 0.003 holds\n"
        "measured on 64 documents, 500000 tokens in rows of 4096 to 8192, from stdlib (float32, 16 rows padded)\n"
        "the certificate covers documents of at most 8192 tokens; nothing longer was measured\n"
    )


def test_certificate_that_does_not_hold_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_certificate(replace(CERTIFICATE, claims=(replace(CLAIM, bound=0.0031),)))
    out = capsys.readouterr().out
    assert "the budget of 0.003 does NOT hold" in out
    assert out.endswith("the certificate covers no length, since it does not hold\n")


def test_certificate_says_what_longer_documents_lose(capsys: pytest.CaptureFixture[str]) -> None:
    steps = [
        AtLength(length, (replace(CLAIM, bound=bound),), 48, "0" * 64, "whole")
        for length, bound in ((16384, 0.0029), (32768, 0.0031))
    ]
    tables.print_certificate(replace(CERTIFICATE, beyond=tuple(steps)))
    assert capsys.readouterr().out.splitlines()[2:] == [
        "beyond, 48 documents of 16384 tokens: kl 0.00212 nats a token, at most 0.0029 with 95% confidence: "
        "the budget of 0.003 holds",
        "beyond, 48 documents of 32768 tokens: kl 0.00212 nats a token, at most 0.0031 with 95% confidence: "
        "the budget of 0.003 does NOT hold",
        "the certificate covers documents of at most 16384 tokens, not of 32768, where the budget of kl does not hold; "
        "nothing longer was measured",
    ]


def test_certificate_says_what_shorter_documents_lose(capsys: pytest.CaptureFixture[str]) -> None:
    step = AtLength(2048, (replace(CLAIM, bound=0.0029),), 48, "0" * 64, "whole")
    tables.print_certificate(replace(CERTIFICATE, shorter=(step,)))
    assert capsys.readouterr().out.splitlines()[2] == (
        "shorter, 48 documents of 2048 tokens: kl 0.00212 nats a token, at most 0.0029 with 95% confidence: "
        "the budget of 0.003 holds"
    )


def test_certificate_of_several_budgets_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    other = replace(CLAIM, metric="nll", unit="of the dense NLL", limit=0.001)
    tables.print_certificate(replace(CERTIFICATE, claims=(CLAIM, other)))
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("kl ") and first.endswith("the budget of 0.003 holds")
    assert second.startswith("nll ") and second.endswith("the budget of 0.001 does NOT hold")


def test_crossover_says_which_graph_calls_take(capsys: pytest.CaptureFixture[str]) -> None:
    timings = [
        {"batch": 1, "length": 128, "dense_us": 1000.0, "hybrid_us": 1100.0},
        {"batch": 1, "length": 1024, "dense_us": 9000.0, "hybrid_us": 6000.0},
        {"batch": 4, "length": 128, "dense_us": 4000.0, "hybrid_us": 3200.0},
    ]
    tables.print_crossover({"hybrid_from": {"1": 1024, "4": 128}, "timings": timings})
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    assert ["1", "128", "1.00", "1.10", "0.91x", "dense"] in rows
    assert ["1", "1024", "9.00", "6.00", "1.50x", "hybrid"] in rows
    assert ["4", "128", "4.00", "3.20", "1.25x", "hybrid"] in rows
    assert lines[-2:] == [
        "batch 1: hybrid from 1024 tokens on",
        "batch 4 and more: hybrid from 128 tokens on",
    ]


def test_crossover_of_schema_1_is_one_of_batch_1(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_crossover({"hybrid_from": None, "timings": []})
    assert capsys.readouterr().out == "batch 1 and more: dense at every length\n"


def test_work_is_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [NodeTime("layer0", 8192, 1500.0, 2000.0), NodeTime("layer1", 8192, 500.0, 400.0)]
    tables.print_work({"tune": 61.0}, 12, nodes)
    expected = "attention at 8192 tokens: 2.00 ms predicted, 2.40 ms measured\n12 kernels measured; tune 1 min 01 s\n"
    assert capsys.readouterr() == ("", expected)
