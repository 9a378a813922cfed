"""A transformers model folder (config.json and safetensors) as a program, with every understood attention raised.

Only classes that transformers itself ships are built, and only safetensors are read: nothing in the folder is run.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.export import Dim
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from hcompile.errors import UsageError
from hcompile.frontend.attention_interface import marker_facts, recording
from hcompile.frontend.messages import one_line
from hcompile.left import LeftDense
from hcompile.operator import attention
from hcompile.passes.lower import lower_dense
from hcompile.passes.raise_attention import raise_attention
from hcompile.passes.sites import accept_strides, free_name, insert_attention, settle_sites, strip_wrapper
from hcompile.passes.verify import compare_outputs
from hcompile.program import InputSpec, Program

_EXAMPLE_BATCH = 2
_EXAMPLE_LENGTH = 24
_COMPARED_LENGTH = 40
_CODE_CHOICES = frozenset(
    f"{start}{part}_implementation" for start in ("", "_") for part in ("attn", "experts")
)
"""Keys of config.json that can name a repository of kernels, which transformers would fetch and run."""
_UNLIMITED = 2**17
"""The longest sequence for which masks are proven where a model has no table of positions."""


class _Text(torch.nn.Module):
    """A text model as a function of its two tensors, which returns its main output by name."""

    def __init__(self, network: PreTrainedModel, output: str) -> None:
        super().__init__()
        self.network = network
        self.output = output

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.network(input_ids=input_ids, attention_mask=attention_mask)
        return {self.output: found[self.output]}


class _Image(torch.nn.Module):
    """An image model as a function of its pixels, which returns its main output by name."""

    def __init__(self, network: PreTrainedModel, output: str) -> None:
        super().__init__()
        self.network = network
        self.output = output

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.network(pixel_values=pixel_values)
        return {self.output: found[self.output]}


@dataclass(frozen=True, slots=True)
class _Call:
    """How a model is called: the wrapper, example inputs and the sizes that may change."""

    wrapper: type[_Text] | type[_Image]
    example: dict[str, torch.Tensor]
    dynamic: dict[str, dict[int, Any]]
    positions: int


def load_folder(path: Path, dtype: torch.dtype | None = None) -> tuple[Program, Program | None]:
    """Import a transformers folder; see `import_with_original`.

    Args:
        dtype: dtype of the weights, None for the one they are saved in.

    Raises:
        UsageError: the folder is damaged, needs code or weights of a kind that is never loaded, or is of a model that
            cannot be exported.
        HCompileError: the program does not compute what the model computes.
    """
    with _quiet():
        return import_with_original(_load_model(path, dtype), str(path))


def import_model(model: PreTrainedModel, source: str) -> Program:
    """Return the program of a loaded model; see `import_with_original`."""
    return import_with_original(model, source)[0]


def import_with_original(model: PreTrainedModel, source: str) -> tuple[Program, Program | None]:
    """Export a loaded model with our attention, raise what else there is, and compare with the model itself.

    Args:
        source: what to call the model in errors.

    Returns:
        The program, and what a call takes whose guards do not hold; None where the program has no guards.

    Raises: as `load_folder`.
    """
    for option, value in (("use_cache", False), ("return_dict", True), ("output_attentions", False)):
        setattr(model.config, option, value)
    call = _call_of(model, source)
    with torch.no_grad(), _one_line(source, "run"):
        found = model(**call.example)
    output = next((name for name in ("logits", "last_hidden_state") if name in found), None)
    if output is None:
        raise UsageError(
            f"{source}: {type(model).__name__} returns neither logits nor last_hidden_state; "
            "use --model package.module:factory"
        )
    wrapper = call.wrapper(model, output)
    with recording(model, call.positions) as record, torch.no_grad(), _one_line(source, "be exported"):
        exported = torch.export.export(wrapper, (), call.example, dynamic_shapes=call.dynamic, strict=False)
    functional = Program.from_exported(exported, with_attention=True)
    adopted = _with_default_mask(_adopt(strip_wrapper(functional, "network."), record.left))
    program = raise_attention(adopted)
    _compare(program, model, output)
    # What the interface has raised goes back to torch's own attention, which no plan changes.
    return program, lower_dense(adopted, padded=True) if program.guards else None


def _compare(program: Program, model: PreTrainedModel, output: str) -> None:
    """Compare with the model under its own attention, on random inputs with one row padded on the left."""
    generator = torch.Generator().manual_seed(0)
    inputs: dict[str, torch.Tensor] = {}
    length = min([_COMPARED_LENGTH, *(most for _, most in program.dims.values() if most is not None)])
    for spec in program.inputs:
        shape = [
            size if isinstance(size, int) else (_EXAMPLE_BATCH, length)[axis]
            for axis, size in enumerate(spec.shape)
        ]
        if spec.name == "pixel_values":
            inputs[spec.name] = torch.randn(shape, generator=generator).to(model.dtype)
        elif spec.name == "input_ids":
            vocabulary = model.config.get_text_config().vocab_size
            inputs[spec.name] = torch.randint(vocabulary, shape, generator=generator)
        else:
            inputs[spec.name] = torch.ones(shape, dtype=torch.int64)
            inputs[spec.name][0, : length // 4] = 0
    with torch.no_grad():
        expected = model(**inputs)[output]
    compare_outputs([expected], program, list(inputs.values()))


def _adopt(program: Program, reasons: dict[str, str]) -> Program:
    """Turn the nodes that the attention interface put into the graph into sites."""
    graph = program.edit()
    windows: dict[str, int | None] = {}
    for node in [node for node in graph.nodes if node.op == "call_function" and node.target is attention]:
        q, k, v, key_mask, *_, scale, causal, binding = node.args
        found, window = marker_facts(binding)
        name = free_name(found, windows)
        windows[name] = window
        site = insert_attention(graph, node, q, k, v, key_mask, scale, causal, name)
        node.replace_all_uses_with(site)
        graph.erase_node(node)
        accept_strides(site)
    left = tuple(LeftDense(name, reason) for name, reason in reasons.items())
    return settle_sites(program, graph, windows, left=left)


def _with_default_mask(program: Program) -> Program:
    """Let callers leave the attention mask out."""
    inputs = [
        InputSpec(spec.name, spec.dtype, spec.shape, "ones") if spec.name == "attention_mask" else spec
        for spec in program.inputs
    ]
    return program.replace(inputs=tuple(inputs))


def _call_of(model: PreTrainedModel, source: str) -> _Call:
    arguments = inspect.signature(model.forward).parameters
    batch = Dim("batch", min=1)
    if model.main_input_name == "pixel_values":
        pixels = torch.zeros(_EXAMPLE_BATCH, *_image_shape(model, source), dtype=model.dtype)
        return _Call(_Image, {"pixel_values": pixels}, {"pixel_values": {0: batch}}, _UNLIMITED)
    if "input_ids" not in arguments or "attention_mask" not in arguments or "decoder_input_ids" in arguments:
        raise UsageError(
            f"{source}: {type(model).__name__} is not called with input_ids and attention_mask alone; "
            "give the part to optimize as --model package.module:factory"
        )
    positions = _positions(model)
    length = min(_EXAMPLE_LENGTH, positions)
    ids = torch.ones(_EXAMPLE_BATCH, length, dtype=torch.int64)
    sizes = {0: batch, 1: Dim("sequence", min=1, max=positions)}
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return _Call(_Text, example, dict.fromkeys(example, sizes), positions)


def _image_shape(model: PreTrainedModel, source: str) -> tuple[int, ...]:
    """Return (channels, height, width) of the images that the model's configuration names."""
    config = model.config.get_text_config()
    channels: Any = getattr(config, "num_channels", None)
    size: Any = getattr(config, "image_size", None)
    shape: tuple[Any, ...] = (channels, *(size if isinstance(size, (tuple, list)) else (size, size)))
    if len(shape) != 3 or not all(type(number) is int and number > 0 for number in shape):
        raise UsageError(
            f"{source}: the configuration of {type(model).__name__} gives no image_size and num_channels to export it "
            "with; use --model package.module:factory"
        )
    return shape


def _positions(model: PreTrainedModel) -> int:
    """Return the longest sequence that the model's table of positions serves."""
    limits = [getattr(model.config.get_text_config(), "max_position_embeddings", None) or _UNLIMITED]
    for name, table in model.named_modules():
        # RoBERTa and its kin count positions from behind the padding's.
        if name.endswith("position_embeddings") and getattr(table, "padding_idx", None) is not None:
            limits.append(table.num_embeddings - table.padding_idx - 1)
    return min(limits)


def _load_model(path: Path, dtype: torch.dtype | None) -> PreTrainedModel:
    kind = _class_of(path)
    if not list(path.glob("*.safetensors")):
        raise UsageError(
            f"{path}: no safetensors there, and other weights are pickles, which are never read; "
            "save the model again with save_pretrained"
        )
    # Its output is no output here, and checkpoints for embeddings are saved without it.
    unused = {"add_pooling_layer": False} if "add_pooling_layer" in _arguments(kind) else {}
    with _one_line(path, "be loaded"):
        model, found = kind.from_pretrained(
            path,
            dtype="auto" if dtype is None else dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="sdpa" if kind._supports_sdpa else "eager",
            output_loading_info=True,
            **unused,
        )
    missing = sorted(found["missing_keys"])
    if missing:
        raise UsageError(
            f"{path}: {len(missing)} tensors are missing from the safetensors, such as {missing[0]}"
        )
    loaded: PreTrainedModel = model.eval()
    return loaded


def _arguments(kind: type[PreTrainedModel]) -> frozenset[str]:
    return frozenset(inspect.signature(kind.__init__).parameters)


def _class_of(path: Path) -> type[PreTrainedModel]:
    """Return the class that config.json names, if it is one of transformers' own."""
    file = path / "config.json"
    try:
        config = json.loads(file.read_text("utf-8"))
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise UsageError(f"{file}: {reason}; give a transformers model folder") from error
    except ValueError as error:
        raise UsageError(f"{file}: no JSON ({error})") from error
    names = config.get("architectures") if isinstance(config, dict) else None
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise UsageError(f'{file}: no architecture is named; add the model\'s class under "architectures"')
    if chosen := _CODE_CHOICES & _keys(config):
        raise UsageError(f"{file}: {min(chosen)} would choose code to run; remove it")
    if "quantization_config" in config:
        raise UsageError(
            f"{file}: the weights are quantized; give the folder of the model in float32 or bfloat16"
        )
    kind = getattr(transformers, names[0], None)
    if not isinstance(kind, type) or not issubclass(kind, PreTrainedModel):
        raise UsageError(
            f"{file}: {names[0]} is no class of transformers {transformers.__version__}, and code from a model folder "
            "is never run; use --model package.module:factory"
        )
    return kind


def _keys(value: Any) -> set[str]:
    """Return the keys of a JSON value at every depth."""
    if isinstance(value, list):
        return set().union(*map(_keys, value))
    return set(value).union(*map(_keys, value.values())) if isinstance(value, dict) else set()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bars and remarks off stderr; what goes wrong is raised."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def _one_line(source: object, what: str) -> Iterator[None]:
    """Turn what transformers and torch.export raise for an unfit model into one line."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    except Exception as error:  # each architecture raises what it likes
        raise UsageError(f"{source}: the model cannot {what} ({one_line(error)})") from error
