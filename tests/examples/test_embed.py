"""The example of a program of one's own reads an artifact as `optimize` writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from examples.embed import main


@pytest.mark.usefixtures("warm_cache")
def test_it_loads_an_artifact_and_reads_a_file(tiny_artifact: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"10 + 20 = 30; " * 20)  # The model knows 64 ids.
    result = CliRunner().invoke(main, [str(tiny_artifact), str(text)])
    assert result.exit_code == 0, result.output
    assert "bits a byte over 280 bytes in" in result.output
