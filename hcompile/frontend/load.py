"""The one entry for models: a transformers folder, an archive of torch.export, or a factory of the user's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hcompile.errors import EnvironmentFault, HCompileError, UsageError
from hcompile.frontend.messages import one_line

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

    from hcompile.frontend.module import Example
    from hcompile.program import Program

DTYPES = ("float32", "bfloat16", "float16")
_COMPARED_SIZE = 64


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """A model as the compiler takes it: its program, found to compute what the model computes.

    Attributes:
        program: the program with its attention raised.
        kind: "transformers", "archive" or "module".
        source: the path or the factory's name, for messages and records.
        original: the graph as it was exported, on the same tensors: what a call takes whose guards do not hold. None
            for a transformers folder whose program has no guards.
        sample_inputs: flat inputs that came with the model, or ().
    """

    program: Program
    kind: str
    source: str
    original: Program | None = None
    sample_inputs: tuple[torch.Tensor, ...] = ()


def load_model(
    path: str | Path, *, dtype: str | None = None, trust: bool = False, factory: str | None = None
) -> ImportedModel:
    """Load a model.

    Args:
        path: a folder with config.json and safetensors, an archive of torch.export.save, or, with `factory`, the
            state dict or safetensors of the module that the factory builds.
        dtype: dtype of the weights, "float32" or "bfloat16"; None for the one they are saved in.
        trust: read an archive even if that could run code from it.
        factory: `package.module:function`, which returns a module and example inputs.

    Raises:
        UsageError: there is no such path, or what is there cannot be used; the message says why.
        EnvironmentFault: the folder needs transformers, which is not installed.
        HCompileError: the program does not compute what the model computes.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is unknown: choose one of {', '.join(DTYPES)}")
    path = Path(path)
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if factory is not None:
        return _load_factory(path, factory, dtype)
    if path.is_dir():
        return _load_folder(path, dtype)
    return _load_archive(path, dtype, trust)


def load_module(module: torch.nn.Module, example: Example, source: str = "module") -> ImportedModel:
    """Take a module from Python; `example` holds the arguments and keyword arguments of a call.

    Raises: as `load_model`.
    """
    from hcompile.frontend.module import export_module

    return _import_exported(export_module(module.eval(), example, source), example, "module", source)


def _load_folder(path: Path, dtype: str | None) -> ImportedModel:
    import torch

    try:
        from hcompile.frontend.transformers_folder import load_folder
    except ModuleNotFoundError as error:
        raise EnvironmentFault(
            f"{path} needs {error.name}: install it with pip install 'hcompile[transformers]'"
        ) from error

    program, original = load_folder(path, None if dtype is None else getattr(torch, dtype))
    return ImportedModel(program, "transformers", str(path), original)


def _load_archive(path: Path, dtype: str | None, trust: bool) -> ImportedModel:
    from hcompile.frontend.archive import load_archive

    if dtype is not None:
        raise UsageError(
            f"{path}: an archive keeps the dtype it was exported in: leave --dtype out, or export again"
        )
    loaded = load_archive(path, trust=trust)
    return _import_exported(loaded.exported_program, loaded.sample_inputs, "archive", str(path))


def _load_factory(path: Path, factory: str, dtype: str | None) -> ImportedModel:
    import torch

    from hcompile.frontend.module_factory import load_factory

    built = load_factory(factory, path)
    if built.example_inputs is None:
        raise UsageError(
            f"--model {factory} gives no example inputs: return the module and a dict of inputs by name"
        )
    module, example = built.module, built.example_inputs
    if dtype is not None:
        wanted = getattr(torch, dtype)
        module, example = module.to(wanted), _cast(example, wanted)
    return load_module(module, example, factory)


def _import_exported(
    exported: ExportedProgram, example: Example | None, kind: str, source: str
) -> ImportedModel:
    from hcompile.passes.raise_attention import raise_attention
    from hcompile.passes.tables import within_tables
    from hcompile.passes.verify import compare_outputs
    from hcompile.program import Program

    with _one_line(source, "its graph cannot be used"):
        original = within_tables(Program.from_exported(exported))
    program = raise_attention(original)
    samples: tuple[torch.Tensor, ...] = ()
    if example is not None:
        with _one_line(source, "its graph does not take its sample inputs"):
            samples = _flatten(original, example)
            compared = _reference(original, samples) if program.sites else None
        if compared is not None:
            expected, inputs = compared
            compare_outputs(expected, program, inputs)
    return ImportedModel(program, kind, source, original, samples)


@contextmanager
def _one_line(source: str, what: str) -> Iterator[None]:
    """Turn what torch raises for a graph of well-formed nonsense into one line."""
    try:
        yield
    except HCompileError:
        raise
    except Exception as error:  # operators raise what they like
        raise UsageError(
            f"{source}: {what} ({one_line(error)}): export the model again with inputs that it runs on"
        ) from error


def _flatten(program: Program, example: Example) -> tuple[torch.Tensor, ...]:
    """Return a call's tensors in the order of the program's inputs."""
    flat: dict[int, torch.Tensor] = {}

    def place(tree: Any, value: Any) -> None:
        if isinstance(tree, int):
            flat[tree] = value
        elif isinstance(tree, dict):
            for name, branch in tree.items():
                place(branch, value[name])
        else:
            for branch, item in zip(tree, value, strict=True):
                place(branch, item)

    place(program.input_tree, example)
    return tuple(flat[index] for index in range(len(flat)))


def _reference(
    original: Program, samples: tuple[torch.Tensor, ...]
) -> tuple[Sequence[torch.Tensor], tuple[torch.Tensor, ...]]:
    """Return what the graph gives, and for which inputs: the samples cut down, since comparing costs the square of the
    length, or whole if the graph wants that."""
    import torch

    short = _shortened(original, samples)
    with torch.no_grad():
        try:
            return original.run(*short), short
        except (RuntimeError, ValueError, IndexError):
            return original.run(*samples), samples


def _shortened(program: Program, samples: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Cut dynamic sizes down, but not below the least that the export allows."""
    short = []
    for spec, sample in zip(program.inputs, samples, strict=True):
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                least, _ = program.dims.get(size, (1, None))
                sample = sample.narrow(axis, 0, min(max(_COMPARED_SIZE, least), sample.shape[axis]))
        short.append(sample)
    return tuple(short)


def _cast(example: Example, dtype: torch.dtype) -> Example:
    from torch.utils import _pytree as pytree

    def cast(value: Any) -> Any:
        return value.to(dtype) if hasattr(value, "is_floating_point") and value.is_floating_point() else value

    casted: Example = pytree.tree_map(cast, example)
    return casted
