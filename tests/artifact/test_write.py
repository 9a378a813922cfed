"""Writing an artifact: whole or not at all, and never over something else."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from hcompile.artifact.load import open_artifact, read_manifest, read_program
from hcompile.artifact.manifest import GRAPH, MANIFEST, ORIGINAL, SCHEDULES, WEIGHTS, Manifest
from hcompile.artifact.write import check_target, write_artifact
from hcompile.errors import EnvironmentFault, UsageError
from hcompile.guard import Guard
from hcompile.passes.lower import lower_dense
from hcompile.program import Program
from hcompile.runtime.dispatch import ScheduleTable
from hcompile.schedules.schedule import Schedule
from tests.artifact.damage import copied

TABLE = ScheduleTable.single(Schedule("t", (("tile", 1),)))


def facts(**values: Any) -> dict[str, Any]:
    return {
        "versions": {"torch": torch.__version__},
        "source": "test",
        "kind": "module",
        "dtype": "float32",
        "backend": "tvm_cpu",
        "device": None,
        "linear_library": "default",
        "length_axis": (0, 1),
        "crossover": {"hybrid_from": {}, "timings": []},
        "certificate": None,
        "notes": {},
        **values,
    }


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes: what a full disk is to its writer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_an_artifact_is_data_of_five_kinds_at_most(
    tiny_hybrid: Program, tiny_program: Program, tmp_path: Path
) -> None:
    write_artifact(tmp_path / "a.hcm", tiny_hybrid, None, {}, facts())
    assert names(tmp_path / "a.hcm") == [GRAPH, MANIFEST, SCHEDULES, WEIGHTS]
    guarded = tiny_hybrid.replace(guards=(Guard("binary", "attention_mask"),))
    original = lower_dense(tiny_program, padded=True)
    manifest = write_artifact(tmp_path / "b.hcm", guarded, original, {}, facts())
    assert names(tmp_path / "b.hcm") == [GRAPH, MANIFEST, ORIGINAL, SCHEDULES, WEIGHTS]
    assert read_manifest(tmp_path / "b.hcm").files == manifest.files
    program, again = read_program(tmp_path / "b.hcm", manifest)
    assert again is not None and program.guards == guarded.guards
    ids = torch.zeros(1, 7, dtype=torch.int64)
    assert torch.equal(again.run(ids, torch.ones_like(ids))[0], original.run(ids, torch.ones_like(ids))[0])


def test_weights_that_share_memory_or_have_odd_strides_are_stored_right(
    tiny_hybrid: Program, tmp_path: Path
) -> None:
    tensors = dict(tiny_hybrid.tensors)
    matrices = [name for name, tensor in tensors.items() if tuple(tensor.shape) == (32, 32)]
    base = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    tensors[matrices[0]], tensors[matrices[1]] = base[:32, :32], base[32:, 32:].T
    odd = tiny_hybrid.with_graph(tiny_hybrid.edit(), tensors)
    manifest = write_artifact(tmp_path / "odd.hcm", odd, None, {}, facts())
    program, _ = read_program(tmp_path / "odd.hcm", manifest)
    assert all(torch.equal(program.tensors[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("size", [100, 60_000])
def test_a_full_disk_leaves_nothing_and_the_older_artifact(
    tiny_hybrid: Program, tiny_artifact: Path, tmp_path: Path, size: int
) -> None:
    """The disk fills up in the graph, and in the weights."""
    target = copied(tiny_artifact, tmp_path)
    manifest = read_manifest(target)
    with (
        largest_file(size),
        pytest.raises(EnvironmentFault, match=r"could not be written .*; free space or") as caught,
    ):
        write_artifact(target, tiny_hybrid, None, {}, facts())
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == [target.name]
    assert read_manifest(target) == manifest
    read_program(target, manifest)


def test_a_place_that_does_not_exist_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder for the output; create it first"):
        check_target(tmp_path / "missing" / "x.hcm")


def test_a_place_that_cannot_be_written_is_named(tiny_hybrid: Program) -> None:
    with pytest.raises(EnvironmentFault, match=r"/proc.* (could not|cannot) be written") as caught:
        write_artifact(Path("/proc/x.hcm"), tiny_hybrid, None, {}, facts())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["file", "folder", "empty folder", "manifest of something else"])
def test_what_is_no_artifact_is_never_replaced(tmp_path: Path, kind: str) -> None:
    """Also not a folder of a web page, which has a manifest.json too."""
    target = tmp_path / "x.hcm"
    if kind == "file":
        target.write_text("mine")
    else:
        target.mkdir()
    if kind == "folder":
        (target / "thesis.tex").write_text("mine")
    if kind == "manifest of something else":
        (target / MANIFEST).write_text("{}")
        (target / "index.html").write_text("mine")
    with pytest.raises(
        UsageError, match=r"exists and is no artifact|holds index.html, which is no part"
    ) as caught:
        check_target(target)
    assert "\n" not in str(caught.value)


def test_whoever_may_read_the_folder_may_read_every_file(tiny_hybrid: Program, tmp_path: Path) -> None:
    write_artifact(tmp_path / "x.hcm", tiny_hybrid, None, {}, facts())
    wanted = (tmp_path / "x.hcm").stat().st_mode & 0o666
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "x.hcm").iterdir()} == {wanted}


def test_an_artifact_may_be_replaced(tiny_artifact: Path, tiny_hybrid: Program, tmp_path: Path) -> None:
    target = copied(tiny_artifact, tmp_path)
    write_artifact(target, tiny_hybrid, None, {tiny_hybrid.sites[0].name: TABLE}, facts(source="again"))
    assert read_manifest(target).source == "again" and names(tmp_path) == [target.name]


def test_a_link_to_an_artifact_stays_a_link(
    tiny_artifact: Path, tiny_hybrid: Program, tmp_path: Path
) -> None:
    target = copied(tiny_artifact, tmp_path)
    link = tmp_path / "link.hcm"
    link.symlink_to(target.name)
    write_artifact(link, tiny_hybrid, None, {}, facts(source="again"))
    assert link.is_symlink() and read_manifest(target).source == "again"
    assert names(tmp_path) == sorted([target.name, link.name])


@pytest.mark.usefixtures("warm_cache")
@pytest.mark.filterwarnings("ignore::hcompile.artifact.load.TuningWarning")
def test_reading_while_it_is_replaced_gives_one_artifact_or_the_other(
    tiny_artifact: Path, tiny_hybrid: Program, tmp_path: Path
) -> None:
    target = copied(tiny_artifact, tmp_path)

    def write_again(number: int) -> Manifest:
        return write_artifact(target, tiny_hybrid, None, {}, facts(source=f"number {number}"))

    with ThreadPoolExecutor(1) as pool:
        written = [pool.submit(write_again, number) for number in range(8)]
        while not written[-1].done():
            assert open_artifact(target).program.plan == tiny_hybrid.plan
        sources = [manifest.result().source for manifest in written]
    assert read_manifest(target).source == sources[-1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"backend": "package.module:backend"},
        {"dtype": ""},
        {"length_axis": (0, -1)},
        {"crossover": {}},
        {"notes": []},
    ],
)
def test_a_manifest_that_could_not_be_read_is_not_written(
    tiny_hybrid: Program, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"backend|dtype|length_axis|crossover|notes"):
        write_artifact(tmp_path / "x.hcm", tiny_hybrid, None, {}, facts(**wrong))
    assert names(tmp_path) == []
