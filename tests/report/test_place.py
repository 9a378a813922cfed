"""Where a page may go, and that it gets there whole."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hcompile.errors import EnvironmentFault, UsageError
from hcompile.report.place import check_place, write_page


@pytest.mark.parametrize("name", ["jinja2", "matplotlib"])
def test_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"needs {name}, .* pip install 'hcompile\[report\]'$"):
        check_place(tmp_path / "page.html", tmp_path / "m.hcm")


def test_folder_and_missing_folder_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is a folder; name a file"):
        check_place(tmp_path, tmp_path / "m.hcm")
    with pytest.raises(UsageError, match=r"none: no such folder for the report; create it first$"):
        check_place(tmp_path / "none" / "page.html", tmp_path / "m.hcm")


@pytest.mark.parametrize("page", ["m.hcm", "m.hcm/page.html", "link/page.html"])
def test_page_does_not_lie_where_something_else_does(tmp_path: Path, page: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "m.hcm")
    if "/" in page:
        (tmp_path / "m.hcm").mkdir()
    with pytest.raises(UsageError, match="the report would lie where"):
        check_place(tmp_path / page, tmp_path / "m.hcm")


def test_name_that_no_file_can_have_is_found_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"the report cannot be written \(File name too long\)"):
        check_place(tmp_path / ("x" * 250), tmp_path / "m.hcm")


def test_looking_leaves_nothing_and_an_old_page_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    check_place(page, tmp_path / "m.hcm")
    assert list(tmp_path.iterdir()) == [page] and page.read_text() == "old"
    write_page(page, "new\udcff\n")
    assert list(tmp_path.iterdir()) == [page] and page.read_bytes() == b"new?\n"


def test_failed_write_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    taken = tmp_path / "page.html"
    taken.mkdir()
    with pytest.raises(
        EnvironmentFault, match=r"cannot be written \(Is a directory\); choose another place$"
    ):
        write_page(taken, "new")
    assert list(tmp_path.iterdir()) == [taken]
