"""How the policy calls a model: which input holds the tokens, which one the padding, and which output counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hcompile.errors import UsageError
from hcompile.program import InputSpec, Program

if TYPE_CHECKING:
    import torch

_HIDDEN_STATES = frozenset(
    {"hidden_states", "image_embeds", "last_hidden_state", "pooler_output", "text_embeds"}
)
_NO_TOKENS = frozenset({"cache_position", "labels", "position_ids", "token_type_ids"})


@dataclass(frozen=True, slots=True)
class Interface:
    """Positions in the flat inputs and outputs of a program.

    Attributes:
        inputs: the program's input specifications, in order.
        tokens: the input with token ids `[B, S]`, None for a model that takes no text.
        mask: the input `[B, S]` that is 1 for valid tokens, None where there is none.
        output: the output that quality is measured on.
        logits: whether that output can be logits; only its name can tell that it is not.
        axis: (input, axis) of the dynamic size that attention runs over, None where it is fixed or not known.
        positions: how many positions attention runs over where that is fixed, as in an image; None where it is not,
            or not known.
    """

    inputs: tuple[InputSpec, ...]
    tokens: int | None
    mask: int | None
    output: int
    logits: bool
    axis: tuple[int, int] | None = None
    positions: int | None = None

    @classmethod
    def of(
        cls, program: Program, axis: tuple[int, int] | None = None, positions: int | None = None
    ) -> Interface:
        """Read the interface off a program's input and output names; `axis` and `positions` as in the attributes."""
        mask = next((i for i, spec in enumerate(program.inputs) if _is_mask(spec)), None)
        candidates = [i for i, spec in enumerate(program.inputs) if i != mask and _may_be_tokens(spec)]
        named = [i for i in candidates if program.inputs[i].name == "input_ids"]
        outputs = _named_outputs(program.output_tree, "")
        name, output = next((entry for entry in outputs if entry[0] == "logits"), outputs[0])
        tokens = next(iter(named or candidates), None)
        return cls(program.inputs, tokens, mask, output, name not in _HIDDEN_STATES, axis, positions)

    @property
    def token_name(self) -> str:
        """The name of the token input.

        Raises:
            UsageError: the model takes no tokens, or needs more than tokens and their mask.
        """
        others = [spec.name for i, spec in enumerate(self.inputs) if i not in (self.tokens, self.mask)]
        if self.tokens is None or others:
            taken = ", ".join(spec.name for spec in self.inputs)
            raise UsageError(
                f"the model takes {taken}, which text alone does not give: calibrate with safetensors of these inputs"
            )
        return self.tokens_input

    @property
    def tokens_input(self) -> str:
        """The name of the token input, whatever else the model takes; only for models that take tokens."""
        assert self.tokens is not None
        return self.inputs[self.tokens].name

    @property
    def mask_input(self) -> str | None:
        """The name of the mask, None where there is none."""
        return None if self.mask is None else self.inputs[self.mask].name

    def length_of(self, row: Mapping[str, torch.Tensor]) -> int | None:
        """Return the length of one row of inputs: its tokens, its size on `axis`, or the fixed one; None where nothing
        says it."""
        place = self.axis if self.tokens is None else (self.tokens, 1)
        if place is None or self.inputs[place[0]].name not in row:
            return self.positions
        return row[self.inputs[place[0]].name].shape[place[1] - 1]

    def is_text(self, row: Mapping[str, torch.Tensor]) -> bool:
        """Return whether a row holds the ids of tokens and nothing else, so that it may be cut to a length."""
        return self.tokens is not None and set(row) == {self.inputs[self.tokens].name}

    @property
    def fixed_rows(self) -> int | None:
        """The batch size that the export fixed, None where it is dynamic."""
        return _fixed(self.inputs, 0)

    @property
    def fixed_length(self) -> int | None:
        """The number of tokens that the export fixed, None where it is dynamic or the model takes no text."""
        return None if self.tokens is None else _fixed((self.inputs[self.tokens],), 1)


def _is_mask(spec: InputSpec) -> bool:
    return len(spec.shape) == 2 and (spec.default == "ones" or spec.name == "attention_mask")


def _may_be_tokens(spec: InputSpec) -> bool:
    return len(spec.shape) == 2 and spec.dtype in ("int64", "int32") and spec.name not in _NO_TOKENS


def _fixed(specs: Sequence[InputSpec], axis: int) -> int | None:
    sizes = [spec.shape[axis] for spec in specs if len(spec.shape) > axis]
    return next((size for size in sizes if isinstance(size, int)), None)


def _named_outputs(tree: Any, name: str) -> list[tuple[str, int]]:
    """Return the innermost name ("" where there is none) and the flat index of each output."""
    if isinstance(tree, dict):
        return [entry for key, item in tree.items() for entry in _named_outputs(item, key)]
    if isinstance(tree, list):
        return [entry for item in tree for entry in _named_outputs(item, name)]
    return [(name, tree)]
