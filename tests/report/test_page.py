"""The parts that any page is made of."""

from __future__ import annotations

import pytest

from hcompile.report.page import Figure, Page, Section, Table, Text, render
from tests.report.html import read


def test_blocks_of_every_kind_are_rendered_and_escaped() -> None:
    table = Table((">a<", "b"), (("<i>1</i>", "2"),), "<u>caption</u>")
    row = Text("<b>text</b>"), Figure("<svg></svg>", "<s>drawn</s>"), table
    page = read(render(Page("<h1>", "<script>", (Section("one", "<em>", (row,)),), "<date>")))
    told = ("<b>text</b>", "<s>drawn</s>", "<i>1</i>", "<u>caption</u>", "a<", "<script>", "<em>", "<date>")
    assert all(text in page.text for text in told)
    assert len(page.named("svg")) == 1 and not page.named("script")
    assert [cell.get("class") for cell in page.named("td")] == ["number", None]


def test_columns_without_names_have_no_head() -> None:
    page = read(render(Page("", "", (Section("one", "", ((Table(("", ""), (("a", "b"),)),),)),), "")))
    assert not page.named("thead") and len(page.named("td")) == 2


def test_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="another number of cells"):
        Table(("a", "b"), (("1",),))


def test_page_can_be_read_on_paper_on_a_phone_and_in_the_dark() -> None:
    html = render(Page("", "", (), ""))
    assert 'name="viewport" content="width=device-width' in html
    assert all(rule in html for rule in ("@media print", "prefers-color-scheme: dark", "overflow-x: auto"))
