"""The compiled module: called like the model it was made from.

A call takes one of three graphs over the same weights: the hybrid one from the measured crossover length on, the
dense one below it, and the original one where an assumption of the rewrite does not hold for the call's inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hcompile.passes.lower import drop_key_mask, lower_dense
from hcompile.plan import Plan
from hcompile.program import Program
from hcompile.runtime.calls import Signature
from hcompile.runtime.crossover import Crossover
from hcompile.runtime.dispatch import ScheduleTable, bind_program
from hcompile.runtime.inductor import CompiledGraph


@dataclass(frozen=True, slots=True)
class Lowered:
    """A program with its kernels bound, as the graphs that a call can take; each compiles at its first call.

    Attributes:
        hybrid: the plan's attention, our kernels; takes padding as it comes.
        dense: full attention through torch's SDPA, for calls without padding.
        padded: the same with the mask of a padded batch.
        original: the graph as exported, or None where the rewrite rests on no assumption.
    """

    hybrid: CompiledGraph
    dense: CompiledGraph
    padded: CompiledGraph
    original: CompiledGraph | None

    @classmethod
    def of(
        cls, program: Program, original: Program | None, tables: Mapping[str, ScheduleTable], backend: str
    ) -> Lowered:
        """Lower a selected program.

        Raises:
            KernelError: a kernel cannot be built for a site.
            EnvironmentFault: the machine lacks what building needs.
        """
        return cls(
            hybrid=CompiledGraph(bind_program(program, tables, backend)),
            dense=CompiledGraph(lower_dense(drop_key_mask(program))),
            padded=CompiledGraph(lower_dense(program)),
            original=None if original is None else CompiledGraph(original),
        )


class CompiledModule:
    """What `hcompile.load` returns. Safe to call from several threads; inference only."""

    def __init__(
        self,
        program: Program,
        lowered: Lowered,
        crossover: Crossover,
        length_axis: tuple[int, int] | None,
        manifest: Mapping[str, Any],
    ) -> None:
        self._signature = Signature(program)
        self._guards = [(self._signature.names.index(guard.input), guard) for guard in program.guards]
        self._masks = tuple(index for index, spec in enumerate(program.inputs) if spec.default == "ones")
        self._inputs = program.inputs
        self._length_axis = length_axis
        self._lowered = lowered
        self._program = program
        self.crossover = crossover
        self.manifest = manifest

    @property
    def plan(self) -> Plan:
        """The pattern of every query head."""
        assert self._program.plan is not None, "an artifact always holds a selected program"
        return self._program.plan

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model on its own inputs, such as `model(input_ids=ids).logits`.

        Raises:
            UsageError: an argument is missing, unknown, or of another dtype or size than the export allows.
        """
        given = self._signature.flatten(args, kwargs)
        graph = self._choose(given)
        flat = [self._default(given, index) if value is None else value for index, value in enumerate(given)]
        return self._signature.unflatten(graph(*flat))

    def warmup(self, lengths: Iterable[int], batch: int = 1) -> None:
        """Compile and run the graphs that calls of these lengths take, so that the first real call is a warm one."""
        for length in lengths:
            with_defaults = [value for value in example_inputs(self._inputs, self._length_axis, batch, length)]
            flat = [None if spec.default else value for spec, value in zip(self._inputs, with_defaults, strict=True)]
            self._choose(flat)(*with_defaults)

    def _choose(self, given: list[torch.Tensor | None]) -> CompiledGraph:
        for index, guard in self._guards:
            value = given[index]
            if value is not None and not guard.holds(value):
                return self._lowered.original or self._lowered.padded
        length = self._length(given)
        if self.crossover.takes_hybrid(length):
            return self._lowered.hybrid
        for index in self._masks:
            mask = given[index]
            if mask is not None and not bool(mask.all()):
                return self._lowered.padded
        return self._lowered.dense if self._masks or not self._has_padding() else self._lowered.padded

    def _has_padding(self) -> bool:
        return any(node.args[3] is not None for _, node in self._program.attention_nodes())

    def _length(self, given: list[torch.Tensor | None]) -> int:
        if self._length_axis is None:
            return 2**30
        index, axis = self._length_axis
        value = given[index]
        return 2**30 if value is None else value.shape[axis]

    def _default(self, given: list[torch.Tensor | None], index: int) -> torch.Tensor:
        spec = self._inputs[index]
        sizes = {}
        for other, value in zip(self._inputs, given, strict=True):
            if value is not None:
                sizes.update(zip(other.shape, value.shape, strict=True))
        shape = [size if isinstance(size, int) else sizes[size] for size in spec.shape]
        return torch.ones(shape, dtype=getattr(torch, spec.dtype))


def example_inputs(
    inputs: Iterable[Any], length_axis: tuple[int, int] | None, batch: int, length: int
) -> list[torch.Tensor]:
    """Return inputs of a length: ones, which are valid token ids, masks and pixels alike."""
    inputs = tuple(inputs)
    symbol = None if length_axis is None else inputs[length_axis[0]].shape[length_axis[1]]
    flat = []
    for spec in inputs:
        shape = [size if isinstance(size, int) else length if size == symbol else batch for size in spec.shape]
        flat.append(torch.ones(shape, dtype=getattr(torch, spec.dtype)))
    return flat
