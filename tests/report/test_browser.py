"""The page as a browser lays it out: nothing wider than a phone, and every drawing inside its frame."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from matplotlib import image

from hcompile.report.optimize_page import optimize_page
from hcompile.report.page import render
from tests.report import reports

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
PAPER = 1.0


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no chromium")
@pytest.mark.parametrize("width", [500, 1100])  # Narrower windows than 500 are no windows to chromium.
def test_page_is_no_wider_than_the_window(tmp_path: Path, width: int) -> None:
    page, shot = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(render(optimize_page(reports.report(reports.hybrid()), "2026-02-01")))
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},9000"]
    subprocess.run(
        [*command, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True, timeout=120
    )
    pixels = image.imread(shot)[:, :, :3]
    assert pixels.shape[1] == width
    # A page that is too wide shows a bar for moving it, and runs into its margins.
    assert (pixels[:, -8:] == PAPER).all() and (pixels[:, :8] == PAPER).all()
    drawn = (pixels != PAPER).any(axis=(1, 2))
    assert drawn[:600].any() and not drawn[-100:].any()
