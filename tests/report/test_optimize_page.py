"""The page of an optimization: whole, alone, escaped and repeatable, for every outcome."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hcompile.errors import UsageError
from hcompile.report import kept, times
from hcompile.report.facts import Facts
from hcompile.report.optimize_page import optimize_page
from hcompile.report.page import Section, Text, render
from hcompile.report.verdict import verdict
from tests.report import reports
from tests.report.html import read

SECTIONS = ["asked", "certificate", "heads", "patterns", "trials", "times", "crossover", "kept"]
HOSTILE = "<script>alert(1)</script>\"'>&amp; ]]> $\\frac{ --> {{ 7 * 7 }}"
OUTCOMES: dict[str, Callable[[], dict[str, Any]]] = {
    "hybrid": reports.hybrid,
    "dense": reports.dense,
    "out of reach": reports.out_of_reach,
    "dry run": reports.dry_run,
    "old": lambda: reports.dense(run=None),
    "given plan": lambda: reports.hybrid(policy=None, certificate=None),
}


def html_of(value: dict[str, Any], *more: Section) -> str:
    return render(optimize_page(reports.report(value), "2026-02-01", more))


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: html_of(make()) for name, make in OUTCOMES.items()}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_section_is_there_and_every_drawing_has_a_caption(pages: dict[str, str], outcome: str) -> None:
    page = read(pages[outcome])
    assert [section["id"] for section in page.named("section")] == SECTIONS
    assert len(page.named("svg")) == len(page.named("figure")) == len(page.named("figcaption")) > 0
    assert len(set(page.ids)) == len(page.ids)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_page_loads_nothing_and_runs_nothing(pages: dict[str, str], outcome: str) -> None:
    html = pages[outcome]
    page = read(html)
    assert "http" not in html and "@import" not in html and not page.named("script") and not page.named("img")
    targets = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href") or "url(" in value
    ]
    assert targets and all("#" in target for target in targets)
    # What is pointed to is on the page: the ids of drawings were changed together with what names them.
    assert {match for target in targets for match in re.findall(r"#([\w-]+)", target)} <= set(page.ids)
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_the_same_report_gives_the_same_bytes(pages: dict[str, str]) -> None:
    assert html_of(reports.hybrid()) == pages["hybrid"]


def _verdict(pages: dict[str, str], outcome: str) -> str:
    match = re.search(r'<p class="verdict">(.*?)</p>', pages[outcome], re.DOTALL)
    assert match is not None
    return match[1].replace("\N{NO-BREAK SPACE}", " ")


def test_verdict_of_a_hybrid_has_what_was_counted_and_measured(pages: dict[str, str]) -> None:
    removed = reports.CHOSEN.removed_share(reports.SITES, reports.LENGTH)
    assert _verdict(pages, "hybrid") == (
        f"{removed:.1%} of the attention pairs at 1024 tokens are removed; "
        "kl at most 0.0024 of the allowed 0.003 with 95.5 % confidence; "
        "nll at most 0.004 of the allowed 0.01 with 95.5 % confidence; "
        "the certificate covers documents of at most 1024 tokens; nothing longer was measured; "
        "a call of 1 x 1024 tokens measured at 3.00 ms, dense at 6.00 ms (2.00x as fast)."
    ).replace("%", " %", 1)


def test_verdict_of_a_dense_model_says_why(pages: dict[str, str]) -> None:
    assert _verdict(pages, "dense") == (
        "The model stays dense: the certified bound of kl is above the budget."
    )
    why = "no measured plan is likely to hold kl=0.003"
    assert _verdict(pages, "out of reach") == f"The model stays dense: {why}."


@pytest.mark.parametrize("outcome", ["dry run", "given plan"])
def test_verdict_claims_nothing_that_was_not_measured(pages: dict[str, str], outcome: str) -> None:
    told = _verdict(pages, outcome)
    assert "not certified" in told and ("fast" in told) == (outcome == "given plan")


def test_a_call_that_was_slower_is_not_called_faster() -> None:
    slow = {"batch": 1, "length": reports.LENGTH, "dense_us": 5000.0, "hybrid_us": 5500.0}
    value = reports.hybrid(crossover={"hybrid_from": {"1": None}, "timings": [slow]})
    told = verdict(Facts.of(reports.report(value)))
    assert told.endswith("measured at 5.50 ms, dense at 5.00 ms, so it takes the dense graph.")


def test_measured_plans_are_told_with_the_chosen_one(pages: dict[str, str]) -> None:
    page = read(pages["hybrid"])
    assert page.text.count("not held") >= 2 and "Dashed: the limit (0.003), dotted:" in page.text
    assert "each measured jointly on 24 repair documents" in page.text
    assert page.text.count(" chosen ") >= 2 and "then not certified" not in page.text
    assert "marked as chosen was then not certified" in pages["dense"]
    assert "then not certified" not in pages["out of reach"]


def test_what_was_left_is_named_with_its_reason(pages: dict[str, str]) -> None:
    text = read(pages["hybrid"]).text
    assert "cross.attn all its mask is no function of positions" in text
    assert (
        "model.layers.1.self_attn heads 0\N{EN DASH}1, 3 the plan chosen within the budget keeps it" in text
    )
    assert "attention_mask holds anything but 0 and 1" in text
    value = reports.hybrid(run=reports.RUN | {"keep_layers": [1]})
    assert "--keep-layers names it" in str(kept.section(Facts.of(reports.report(value))))


def test_longer_documents_are_told_held_or_not(pages: dict[str, str]) -> None:
    value = reports.hybrid(run=reports.RUN | {"beyond": [2048, 4096]})
    steps = [
        {
            "length": length,
            "claims": [reports.claim("kl", 0.003, bound), reports.claim("nll", 0.01, 0.005)],
            "documents": 64,
            "data_sha256": "c" * 64,
            "unit_of_data": "piece",
            "holds": bound <= 0.003,
        }
        for length, bound in ((2048, 0.0029), (4096, 0.0041))
    ]
    value["certificate"] |= {"schema": 3, "beyond": steps, "covers": 2048}
    text = read(html_of(value)).text.replace("\N{NO-BREAK SPACE}", " ")
    assert (
        text.count("covers documents of at most 2048 tokens, not of 4096, where the budget of kl does") == 2
    )
    assert "lengths beyond 2048 and 4096 tokens" in text and "2048 64, pieces of longer texts kl" in text
    assert "0.0041 0.003 137 % nats a token 95.5 % 65536 does not hold" in text
    text = read(pages["hybrid"]).text
    assert "The certificate covers documents of at most 1024 tokens; nothing longer was measured." in text
    assert "lengths beyond" not in text and "on longer documents" not in text


def test_shorter_documents_are_told_where_windows_widen(pages: dict[str, str]) -> None:
    value = reports.hybrid(run=reports.RUN | {"widen": True})
    step = {
        "length": 256,
        "claims": [reports.claim("kl", 0.003, 0.0029), reports.claim("nll", 0.01, 0.005)],
        "documents": 64,
        "data_sha256": "c" * 64,
        "unit_of_data": "whole",
        "holds": True,
    }
    covers = value["certificate"]["longest"]
    value["certificate"] |= {"schema": 4, "shorter": [step], "beyond": [], "covers": covers}
    text = read(html_of(value)).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "windows may widen with the length" in text and "256 64, whole documents kl" in text
    assert "on the beginnings of these documents, since its windows widen" in text
    text = read(pages["hybrid"]).text
    assert "may widen" not in text and "on the beginnings of these documents" not in text


def test_old_reports_say_what_they_do_not_know(pages: dict[str, str]) -> None:
    assert "not recorded in this report" in pages["old"]


def test_no_text_of_the_users_is_markup() -> None:
    value = reports.hybrid(
        run=reports.RUN | {"model": HOSTILE, "calib": HOSTILE, "budgets": [HOSTILE, HOSTILE]},
        output=HOSTILE,
        left=[{"name": HOSTILE, "reason": HOSTILE}],
        warnings=[HOSTILE],
        linear_library=HOSTILE,
        stages={HOSTILE: 1.0},
        guards=[{"kind": "binary", "input": HOSTILE}],
        certificate=reports.certificate() | {"domain": HOSTILE, "device": HOSTILE},
    )
    value["certificate"]["claims"][0] |= {"metric": HOSTILE, "unit": HOSTILE}
    for entries, key in (
        (value["sites"], "name"),
        (value["nodes"], "site"),
        (value["plan"]["sites"], "site"),
    ):
        entries[0][key] = HOSTILE
    for trial in value["policy"]["trials"]:
        trial["plan"]["sites"][0]["site"] = HOSTILE
    text = html_of(value)
    page = read(text)
    assert not page.named("script") and "<script" not in text and "49" not in page.texts
    assert page.text.count("<script>alert(1)</script>") >= 14
    (title,) = re.findall(r"<title>(.*?)</title>", text)
    assert "<" not in title and "&lt;script&gt;" in title


def test_a_saved_report_of_a_real_run_has_a_page() -> None:
    saved = json.loads((Path(__file__).parents[1] / "data" / "optimize-1.json").read_bytes())
    page = read(html_of(saved))
    assert [section["id"] for section in page.named("section")] == SECTIONS
    assert "kl at most 0.00245 of the allowed 0.003" in page.text.replace("\N{NO-BREAK SPACE}", " ")


def test_other_sections_stand_at_the_end() -> None:
    page = read(html_of(reports.empty(), Section("ablation", "Ablation", ((Text("<b>none</b>"),),))))
    assert [section["id"] for section in page.named("section")] == [*SECTIONS, "ablation"]
    assert "<b>none</b>" in page.text


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: value["certificate"].pop("claims"),
        lambda value: value["policy"].update(trials=[{}]),
        lambda value: value["crossover"].update(timings=7),
    ],
    ids=["certificate", "policy", "crossover"],
)
def test_a_part_that_is_not_what_it_should_be_is_a_usage_error(spoil: Callable[[Any], Any]) -> None:
    value = reports.hybrid()
    spoil(value)
    with pytest.raises(UsageError, match=r"^the report cannot be shown: "):
        html_of(value)


def test_a_model_without_attention_has_a_page() -> None:
    page = read(html_of(reports.empty()))
    assert "No attention of the model is understood" in page.text and not page.named("svg")


def test_many_heads_are_drawn_without_labels() -> None:
    wide = reports.many_heads(32)
    html = html_of(wide)
    assert "White squares: as the model has it" in html and "min-width" in html


def test_a_node_without_a_time_of_its_own_is_not_given_one() -> None:
    value = reports.hybrid()
    value["nodes"][1]["measured_us"] = value["nodes"][1]["predicted_us"]
    told = str(times.section(Facts.of(reports.report(value))).rows)
    assert "('1', '0.250', '\N{EN DASH}')" in told and "('all', '0.750', '\N{EN DASH}')" in told
    assert "not every node has a time of its own" in told
