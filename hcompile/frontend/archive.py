"""Reading a model from an archive that `torch.export.save` wrote, without letting the archive run code.

torch's own loader unpickles sample inputs, evaluates sizes and executes guards; it says itself that it is not for
files from elsewhere. Here the zip file is read by `vet`, its JSON is checked by `vet_graph`, sample inputs go through
`torch.load(weights_only=True)`, weights are made from their raw bytes, and only then torch rebuilds the graph from
what was checked: it never sees the file.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._export.serde import schema

from hcompile.errors import UsageError
from hcompile.frontend import vet
from hcompile.frontend.file_kind import describe
from hcompile.frontend.messages import one_line, root_cause
from hcompile.frontend.vet import AGAIN, TRUST, Archive, Refused
from hcompile.frontend.vet_graph import as_schema, vet_graph, vet_payloads

SampleInputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class LoadedArchive:
    """A model read from an archive.

    Attributes:
        exported_program: the model's graph, weights and constants.
        sample_inputs: the arguments and keyword arguments it was exported with, None if it holds none.
    """

    exported_program: torch.export.ExportedProgram
    sample_inputs: SampleInputs | None


def load_archive(path: Path | str, *, trust: bool = False) -> LoadedArchive:
    """Read an archive written by `torch.export.save`, whatever its ending.

    Outputs of transformers' types come back as dicts with the same keys, so that no transformers is needed, and node
    metadata that only debuggers read is left out. With `trust`, both are as torch reads them.

    Args:
        path: the archive.
        trust: hand the file to torch unchecked, which may run code from it.

    Raises:
        UsageError: there is no such file, it is something else (and which form takes it), it is damaged, or reading
            it could run code and `trust` is not given.
    """
    path = Path(path)
    try:
        if not path.is_file() or not vet.is_export_archive(vet.member_names(path)):
            raise UsageError(f"{path} {describe(path)}")
        return _load_trusted(path) if trust else _load_vetted(path)
    except Refused as refused:
        raise UsageError(f"{path}: {refused}") from refused
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror or error}): check the file and its rights"
        ) from error


def _load_vetted(path: Path) -> LoadedArchive:
    with vet.open_archive(path) as archive:
        document = archive.read_json(vet.GRAPH)
        vet_graph(document)
        weights = _tensors(archive, "weights")
        constants = _tensors(archive, "constants")
        sample_inputs = _sample_inputs(archive)
    return LoadedArchive(_rebuild(document, weights, constants, sample_inputs), sample_inputs)


def _load_trusted(path: Path) -> LoadedArchive:
    from torch.export.pt2_archive._package import load_pt2

    try:
        with path.open("rb") as file:
            program = load_pt2(file).exported_programs["model"]
    except Exception as error:  # torch, or code in the file, may raise anything
        raise Refused(f"torch {torch.__version__} cannot read it ({root_cause(error)})", AGAIN) from error
    return LoadedArchive(program, program.example_inputs)


def _tensors(archive: Archive, kind: str) -> dict[str, torch.Tensor]:
    """Return the weights or constants by name; those that share a member share its memory."""
    folder, config = f"data/{kind}", f"data/{kind}/model_{kind}_config.json"
    payloads = vet_payloads(archive.read_json(config), config)
    storages: dict[str, torch.Tensor] = {}
    tensors = {}
    for name, payload in payloads.config.items():
        member = f"{folder}/{payload.path_name}"
        if member not in storages:
            storages[member] = _raw_bytes(archive, member)
        try:
            tensors[name] = _tensor(storages[member], payload)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise Refused(
                f"{member} does not hold {name} as {config} describes it ({one_line(error)})", AGAIN
            ) from error
    return tensors


def _raw_bytes(archive: Archive, member: str) -> torch.Tensor:
    raw = torch.empty(archive.size_bytes(member), dtype=torch.uint8)
    archive.read_into(member, raw.numpy().data)
    return raw


def _tensor(raw: torch.Tensor, payload: schema.PayloadMeta) -> torch.Tensor:
    from torch._export.serde.serialize import deserialize_scalar_type

    meta = payload.tensor_meta
    if meta is None or meta.layout != schema.Layout.Strided or meta.device.type != "cpu":
        raise ValueError("it is no dense tensor on the CPU")
    sizes, strides = [size.as_int for size in meta.sizes], [stride.as_int for stride in meta.strides]
    flat = raw.view(deserialize_scalar_type(meta.dtype))
    # as_strided checks that sizes, strides and offset stay inside the member's bytes.
    tensor = flat.as_strided(sizes, strides, meta.storage_offset.as_int)
    if payload.is_param:
        return torch.nn.Parameter(tensor, requires_grad=meta.requires_grad)
    return tensor.requires_grad_(meta.requires_grad)


def _sample_inputs(archive: Archive) -> SampleInputs | None:
    content = archive.read(vet.SAMPLE_INPUTS) if vet.SAMPLE_INPUTS in archive.members else b""
    if not content:
        return None
    try:
        value = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # a hostile pickle makes the unpickler raise anything
        raise Refused(
            f"{vet.SAMPLE_INPUTS} is a pickle of more than tensors ({one_line(error)})", TRUST
        ) from error
    match value:
        case (tuple() as args, dict() as kwargs):
            return args, kwargs
    raise Refused(f"{vet.SAMPLE_INPUTS} holds no arguments and keyword arguments", AGAIN)


def _rebuild(
    document: Any,
    weights: dict[str, torch.Tensor],
    constants: dict[str, torch.Tensor],
    sample_inputs: SampleInputs | None,
) -> torch.export.ExportedProgram:
    from torch._export.serde.serialize import ExportedProgramDeserializer

    try:
        graph = as_schema(schema.ExportedProgram, document)
        program: torch.export.ExportedProgram = ExportedProgramDeserializer().deserialize(
            graph, weights, constants
        )
        program.example_inputs = sample_inputs
    except Exception as error:  # the graph is free to be any nonsense of well-formed parts
        written = document.get("torch_version", "")
        raise Refused(
            f"torch {torch.__version__} cannot rebuild the graph that torch {written} wrote ({root_cause(error)})",
            AGAIN,
        ) from error
    return program
