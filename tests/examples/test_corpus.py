"""What is trained on, and what is held out."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from examples.corpus import folder, permissive_packages, spread, standard_library


def install(site: Path, name: str, licence: str, source: bytes) -> None:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{licence}\n")
    (info / "RECORD").write_text(f"{name}.py,,\n")
    (site / f"{name}.py").write_bytes(source)


def test_only_permissive_packages_that_do_not_copy_the_standard_library_are_trained_on(
    tmp_path: Path,
) -> None:
    own = b"".join(b"a_name_that_the_standard_library_has_not_%d = %d\n" % (i, i) for i in range(20))
    copied = (Path(sysconfig.get_paths()["stdlib"]) / "textwrap.py").read_bytes()
    install(tmp_path, "free", "License-Expression: MIT", own)
    install(tmp_path, "classified", "Classifier: License :: OSI Approved :: BSD License", own + b"# other\n")
    install(tmp_path, "copyleft", "License-Expression: GPL-3.0-or-later AND MIT", own + b"# copyleft\n")
    install(tmp_path, "closed", "License: Proprietary", own + b"# closed\n")
    install(tmp_path, "unstated", "Summary: says nothing", own + b"# unstated\n")
    install(tmp_path, "copier", "License-Expression: MIT", copied)
    install(tmp_path, "twin", "License-Expression: MIT", own)

    text, sources = permissive_packages([str(tmp_path)])

    assert [(source.name, source.licence) for source in sources] == [
        ("classified", "BSD License"),
        ("free", "MIT"),
    ]
    assert text == own + b"# other\n" + b"\n" + own
    assert [source.bytes for source in sources] == [len(own) + len(b"# other\n"), len(own)]


def test_the_standard_library_comes_without_its_tests_and_installed_packages() -> None:
    texts = standard_library(8192)
    assert min(map(len, texts)) >= 8192
    assert (Path(sysconfig.get_paths()["stdlib"]) / "argparse.py").read_bytes() in texts
    assert Path(pytest.__file__).read_bytes() not in standard_library()


def test_spread_takes_texts_from_everywhere_and_refuses_to_repeat_one() -> None:
    assert spread([b"a", b"b", b"c", b"d"], 2) == [b"a", b"c"]
    with pytest.raises(ValueError, match="asked for 3 texts, there are 2"):
        spread([b"a", b"b"], 3)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \.py files"):
        folder(tmp_path)
