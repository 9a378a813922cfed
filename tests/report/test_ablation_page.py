"""The page of an ablation: its figures are those of the JSON form, and it claims nothing that was not measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hcompile.pipeline.ablation import MAIN, Ablation
from hcompile.report.ablation_page import ablation_page
from hcompile.report.page import render
from tests.report.ablations import FOUND, point
from tests.report.html import Reader, read

HOSTILE = "<script>alert(1)</script>\"'>&amp; $\\frac{"


def two_lengths() -> Ablation:
    other = [replace(each, length=2048) for each in FOUND.points]
    family = replace(point(MAIN, 0.5, 0.48, 0.005), family="local")
    return replace(
        FOUND,
        lengths=(1024, 2048),
        data_sha256=("0" * 64, "1" * 64),
        dense_pairs=(1049600, 4196352),
        points=(*FOUND.points, *other, family),
    )


def page_of(found: Ablation) -> Reader:
    return read(render(ablation_page(found, "2026-02-01")))


@pytest.mark.parametrize(
    ("found", "sections"),
    [
        (FOUND, ["asked", "removal", "lengths", "sensitivity"]),
        (two_lengths(), ["asked", "removal", "lengths", "sensitivity"]),
        (replace(FOUND, limits=()), ["asked", "removal", "sensitivity"]),
        (replace(FOUND, points=(), sensitivities=()), ["asked", "removal", "sensitivity"]),
    ],
    ids=["one length", "two lengths", "no limits", "nothing measured"],
)
def test_every_section_is_there_and_every_drawing_has_a_caption(found: Ablation, sections: list[str]) -> None:
    page = page_of(found)
    assert [section["id"] for section in page.named("section")] == sections
    assert len(page.named("svg")) == len(page.named("figure")) == len(page.named("figcaption"))
    assert len(set(page.ids)) == len(page.ids)


def test_the_verdict_is_what_the_intervals_say() -> None:
    found = ablation_page(FOUND, "2026-02-01").verdict.replace("\N{NO-BREAK SPACE}", " ")
    assert found == (
        "At 1024 tokens, 25.2 % of the pairs can go within kl 0.003 (not 50.1 %), 50.1 % of the pairs can go within "
        "kl 0.01 (not 75.0 %) and 75.0 % of the pairs can go within kl 0.03."
    )


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (replace(FOUND, points=()), "No plan was measured"),
        (replace(FOUND, limits=()), "no limit was named"),
        (replace(FOUND, limits=(1e-6,)), "no measured plan holds kl 1e-06 (not 25.2 %)"),
    ],
    ids=["nothing measured", "no limits", "nothing holds"],
)
def test_a_verdict_without_a_plan_that_holds_says_so(found: Ablation, told: str) -> None:
    assert told in ablation_page(found, "").verdict.replace("\N{NO-BREAK SPACE}", " ")


def test_the_table_has_each_plan_beside_its_controls() -> None:
    text = page_of(FOUND).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "74.8 % 0.001 0.0005 to 0.0015 0.0123 (70.0 %)" in text
    assert "49.9 % 0.004 0.002 to 0.006 0.02" in text


def test_the_largest_losses_alone_are_named() -> None:
    text = page_of(FOUND).text
    assert text.index("head 1 of layer0 0.0314") < text.index("head 0 of layer0 0.0002")
    assert "all heads of layer0 0.04" in text


def test_scales_are_read_as_numbers() -> None:
    assert "mathdefault" not in render(ablation_page(FOUND, ""))


def test_names_of_the_users_are_no_markup() -> None:
    html = render(ablation_page(replace(FOUND, model=HOSTILE, source=HOSTILE, warnings=(HOSTILE,)), ""))
    assert "<script" not in html and not read(html).named("script")


def test_equal_results_give_equal_pages() -> None:
    first, second = (render(ablation_page(two_lengths(), "2026-02-01")) for _ in range(2))
    assert first == second
