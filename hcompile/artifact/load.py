"""Loading an artifact: check, rebuild the graph from data, bind kernels for this machine."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hcompile.artifact.manifest import (
    GRAPH,
    MANIFEST,
    ORIGINAL,
    SCHEDULES,
    WEIGHTS,
    Manifest,
    file_sha256,
)
from hcompile.errors import KernelError, UsageError
from hcompile.left import LeftDense
from hcompile.plan import Plan
from hcompile.site import Site

if TYPE_CHECKING:
    import torch

    from hcompile.program import Program
    from hcompile.runtime.dispatch import ScheduleTable
    from hcompile.runtime.module import CompiledModule, Lowered
    from hcompile.shadow.options import ShadowOptions
    from hcompile.shadow.shadow import OnDrift
    from hcompile.tuning_db.key import Device


class TuningWarning(UserWarning):
    """The artifact's schedules were tuned elsewhere; safe ones are used, and `hcompile tune` finds better ones."""


def read_manifest(path: str | Path) -> Manifest:
    """Read an artifact's manifest, and nothing else.

    Raises:
        UsageError: there is no artifact at `path`, or its manifest is damaged or of another schema.
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        hint = "no such artifact" if not path.exists() else f"no artifact (it has no {MANIFEST})"
        raise UsageError(
            f"{path}: {hint}; make one with `hcompile optimize MODEL -o {path.name or 'model.hcm'}`"
        )
    try:
        return Manifest.from_json(json.loads((path / MANIFEST).read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{path / MANIFEST}: the manifest cannot be used ({error}); write the artifact again"
        ) from error


def check_files(path: str | Path, manifest: Manifest) -> None:
    """Raise UsageError unless every file of the artifact has the hash that the manifest names."""
    for name, wanted in manifest.files.items():
        file = Path(path) / name
        try:
            found = file_sha256(file)
        except OSError as error:
            raise UsageError(
                f"{file}: cannot be read ({error.strerror}); write the artifact again"
            ) from error
        if found != wanted:
            raise UsageError(
                f"{file}: damaged or changed (its sha256 is not the manifest's); write the artifact again"
            )


def read_program(path: str | Path, manifest: Manifest) -> tuple[Program, Program | None]:
    """Return the raised program of an artifact, and the original one where it holds one.

    Raises:
        UsageError: a file is damaged, or a graph holds what artifacts may not hold.
    """
    from hcompile.program_json import program_from_json

    path = Path(path)
    check_files(path, manifest)
    tensors = _read_tensors(path / WEIGHTS, manifest)
    program = program_from_json(_read_json(path / GRAPH), tensors)
    if program.plan is None:
        raise UsageError(f"{path / GRAPH}: it holds no plan; write the artifact again")
    original = program_from_json(_read_json(path / ORIGINAL), tensors) if ORIGINAL in manifest.files else None
    if program.guards and original is None:
        raise UsageError(f"{path}: its guards want {ORIGINAL}, which is missing; write the artifact again")
    return program, original


@dataclass(frozen=True, slots=True)
class Stored:
    """What an artifact's JSON files say of its attention."""

    sites: tuple[Site, ...]
    left: tuple[LeftDense, ...]
    plan: Plan
    schedules: dict[str, Any]


def read_stored(path: str | Path) -> Stored:
    """Read what `inspect` shows, without torch and without the graph's nodes.

    Raises:
        UsageError: a file is damaged.
    """
    path = Path(path)
    graph, schedules = _read_json(path / GRAPH), _read_json(path / SCHEDULES)
    try:
        return Stored(
            sites=tuple(Site.from_json(site) for site in graph["sites"]),
            left=tuple(LeftDense(**left) for left in graph["left"]),
            plan=Plan.from_json(graph["plan"]),
            schedules=schedules,
        )
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"{path / GRAPH}: the graph cannot be used ({error}); write the artifact again"
        ) from error


def read_tables(path: str | Path) -> dict[str, ScheduleTable]:
    """Return the schedules of an artifact by site. Raises UsageError when they are malformed."""
    from hcompile.runtime.dispatch import ScheduleTable

    file = Path(path) / SCHEDULES
    try:
        return {name: ScheduleTable.from_json(table) for name, table in _read_json(file).items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"{file}: the schedules cannot be used ({error}); write the artifact again"
        ) from error


@dataclass(frozen=True, slots=True)
class Opened:
    """An artifact, lowered for this machine: the module that users call and what it was made of."""

    manifest: Manifest
    program: Program
    lowered: Lowered
    module: CompiledModule
    device: Device
    linear_library: str

    @property
    def limits(self) -> tuple[int, int | None]:
        """The least and the largest number of tokens of a call, None where there is no largest."""
        from hcompile.runtime.inputs import limits

        return limits(self.program, self.manifest.length_axis)

    @property
    def batch_limits(self) -> tuple[int, int | None]:
        """The least and the largest batch size of a call, None where there is no largest."""
        from hcompile.runtime.inputs import batch_limits

        return batch_limits(self.program, self.manifest.length_axis)

    def inputs(self, length: int, batch: int = 1) -> list[torch.Tensor]:
        """Return random flat inputs of a length."""
        from hcompile.runtime.inputs import made_up_inputs

        return made_up_inputs(self.program, self.manifest.length_axis, batch, length)


def open_artifact(path: str | Path) -> Opened:
    """Load an artifact with its parts; see `load`."""
    from hcompile.codegen import get_backend
    from hcompile.passes.place import place_both
    from hcompile.runtime.crossover import Crossover
    from hcompile.runtime.module import CompiledModule

    manifest = read_manifest(path)
    try:
        program, original = read_program(path, manifest)
        tables = read_tables(path)
        _check_fit(path, manifest, program, tables)
    except UsageError:
        if read_manifest(path) == manifest:
            raise
        return open_artifact(path)  # it was replaced meanwhile
    backend = get_backend(manifest.backend)
    device = backend.device()
    program, original = place_both(program, original, backend.torch_device())
    lowered, library = _lower(path, manifest, program, original, tables, device)
    crossover = Crossover.from_json(manifest.crossover)
    module = CompiledModule(program, lowered, crossover, manifest.length_axis, manifest.certificate)
    return Opened(manifest, program, lowered, module, device, library)


def load(
    path: str | Path, *, shadow: float | ShadowOptions | None = None, on_drift: OnDrift | None = None
) -> CompiledModule:
    """Load a compiled module for the machine at hand.

    The module is called with the model's own inputs, `model(input_ids=ids).logits`. On a machine that the artifact
    was not tuned for it runs safe schedules and warns with `TuningWarning`.

    Args:
        shadow: the share of the hybrid calls that run through the dense model too, aside, to see whether quality drifts
            from its certificate (`module.shadow`, logger "hcompile.shadow").
        on_drift: called with a `ShadowReport`, once for each drift, on a thread of the shadow's.

    Raises:
        UsageError: there is no artifact, or it is damaged or of another schema; or a shadow has nothing to go by.
        KernelError: a kernel cannot be built here.
        EnvironmentFault: the machine lacks a C compiler, a library, or the GPU that the artifact is for.
    """
    opened = open_artifact(path)
    if shadow is not None:
        from hcompile.artifact.watch import shadow_of

        opened.module.shadow = shadow_of(path, opened, shadow, on_drift)
    elif on_drift is not None:
        raise UsageError("on_drift is never called without a shadow: pass shadow=0.001 too")
    return opened.module


def _check_fit(
    path: str | Path, manifest: Manifest, program: Program, tables: Mapping[str, ScheduleTable]
) -> None:
    from hcompile.passes.linear import LIBRARIES

    shapes = [spec.shape for spec in program.inputs]
    axis = manifest.length_axis
    if axis is not None and (axis[0] >= len(shapes) or axis[1] >= len(shapes[axis[0]])):
        raise UsageError(f"{path}: length_axis {list(axis)} is no axis of an input; write the artifact again")
    if manifest.linear_library not in LIBRARIES:
        raise UsageError(
            f"{path}: linear library {manifest.linear_library!r} is unknown; write the artifact again"
        )
    if unknown := sorted(set(tables) - {site.name for site in program.sites}):
        raise UsageError(f"{path}: schedules of {unknown[0]!r}, which is no site; write the artifact again")


def _lower(
    path: str | Path,
    manifest: Manifest,
    program: Program,
    original: Program | None,
    tables: Mapping[str, ScheduleTable],
    device: Device,
) -> tuple[Lowered, str]:
    """Return the lowered program and its linear library: as tuned if that fits this machine, else as is safe."""
    from hcompile.runtime.dispatch import safe_tables
    from hcompile.runtime.module import Lowered

    if device.to_json() == manifest.device:
        library = manifest.linear_library
        try:
            return Lowered.of(program, original, tables, manifest.backend, library), library
        except KernelError as error:
            reason = f"its schedules do not build here ({error}), running"
    else:
        reason = _elsewhere(manifest.device, device)
    warnings.warn(
        f"{path}: {reason} with safe schedules; `hcompile tune {path}` finds better ones",
        TuningWarning,
        stacklevel=4,
    )
    tables = safe_tables(program, manifest.backend)
    return Lowered.of(program, original, tables, manifest.backend, "default"), "default"


def _elsewhere(made_on: Mapping[str, Any] | None, device: Device) -> str:
    """Return where an artifact was tuned and where it runs, told apart."""
    if made_on is None:
        return f"tuned on no machine, running on {device.model}"
    if made_on.get("model") != device.model:
        return f"tuned on {made_on.get('model')}, running on {device.model}"
    here = device.to_json()
    differ = [name for name in here if made_on.get(name) != here[name]]
    then, now = (", ".join(f"{name} {facts.get(name)}" for name in differ) for facts in (made_on, here))
    return f"tuned with {then}, running with {now} on {device.model}"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as JSON ({error}); write the artifact again") from error


def _read_tensors(path: Path, manifest: Manifest) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
        return tensors | {name: tensors[stored] for name, stored in manifest.aliases.items()}
    except (OSError, SafetensorError, KeyError) as error:
        raise UsageError(f"{path}: the weights cannot be read ({error}); write the artifact again") from error
