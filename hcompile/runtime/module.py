"""The compiled module: called like the model it was made from.

A call takes one of five graphs over the same weights: a hybrid one from the length on that was measured as the
crossover of its batch size, a dense one below it, each with and without padding, and the original one where an
assumption of the rewrite does not hold for the call's inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hcompile.passes.linear import use_library
from hcompile.passes.lower import drop_key_mask, lower_dense
from hcompile.passes.sites import KEY_MASK
from hcompile.patterns import UNBOUNDED
from hcompile.plan import Plan
from hcompile.program import Program
from hcompile.runtime.calls import Signature
from hcompile.runtime.crossover import Crossover
from hcompile.runtime.dispatch import ScheduleTable, bind_program
from hcompile.runtime.inductor import CompiledGraph
from hcompile.runtime.inputs import batch_axis, made_up_inputs

if TYPE_CHECKING:
    from hcompile.shadow.shadow import Shadow


@dataclass(frozen=True, slots=True)
class Lowered:
    """A program with its kernels bound, as the graphs that a call can take; each compiles at its first call.

    Attributes:
        hybrid: the plan's attention, our kernels; takes padding as it comes.
        hybrid_unpadded: for calls without padding; the same graph where the program knows none.
        dense: full attention through torch's SDPA, for calls without padding.
        padded: the same with the mask of a padded batch.
        original: the graph as exported, or None where the rewrite rests on no assumption.
    """

    hybrid: CompiledGraph
    hybrid_unpadded: CompiledGraph
    dense: CompiledGraph
    padded: CompiledGraph
    original: CompiledGraph | None

    @classmethod
    def of(
        cls,
        program: Program,
        original: Program | None,
        tables: Mapping[str, ScheduleTable],
        backend: str,
        linear_library: str,
    ) -> Lowered:
        """Lower a selected program.

        Raises:
            KernelError: a kernel cannot be built for a site.
            EnvironmentFault: the machine lacks what building needs.
        """
        program = use_library(program, linear_library)
        bound = bind_program(program, tables, backend)
        hybrid = CompiledGraph(bound)
        return cls(
            hybrid=hybrid,
            hybrid_unpadded=CompiledGraph(drop_key_mask(bound)) if takes_padding(bound) else hybrid,
            dense=CompiledGraph(lower_dense(program)),
            padded=CompiledGraph(lower_dense(program, padded=True)),
            original=None if original is None else CompiledGraph(use_library(original, linear_library)),
        )


def takes_padding(program: Program) -> bool:
    """Return whether some attention of the program reads which keys are valid."""
    return any(node.args[KEY_MASK] is not None for _, node in program.attention_nodes())


def masks_of(program: Program) -> tuple[int, ...]:
    """Return the inputs that may be left out, where every token is valid."""
    return tuple(index for index, spec in enumerate(program.inputs) if spec.default == "ones")


def always_masked(program: Program) -> bool:
    """Return whether any call may be padded: its mask cannot be left out."""
    return takes_padding(program) and not masks_of(program)


def graphs_without_padding(program: Program, lowered: Lowered) -> tuple[CompiledGraph, CompiledGraph]:
    """Return the dense and the hybrid graph that a call whose tokens are all valid takes."""
    if always_masked(program):
        return lowered.padded, lowered.hybrid
    return lowered.dense, lowered.hybrid_unpadded


class CompiledModule:
    """What `hcompile.load` returns. Safe to call from several threads; inference only.

    Attributes:
        shadow: what watches the hybrid calls, None where nothing does.
    """

    def __init__(
        self,
        program: Program,
        lowered: Lowered,
        crossover: Crossover,
        length_axis: tuple[int, int] | None,
        certificate: Mapping[str, Any] | None = None,
    ) -> None:
        if program.plan is None:
            raise ValueError("a compiled module wants a program with a plan: run select first")
        if program.guards and lowered.original is None:
            raise ValueError(
                "a program with guards wants its original graph for calls that they do not hold for"
            )
        self._signature = Signature(program)
        self._guards = [(self._signature.names.index(guard.input), guard) for guard in program.guards]
        self._masks = masks_of(program)
        self._maybe_padded = always_masked(program)
        self._length_axis = length_axis
        self._batch_axis = batch_axis(program, length_axis)
        # Where the length is fixed it was the only one to measure.
        self._fixed_length = max((timing.length for timing in crossover.timings), default=UNBOUNDED)
        self._lowered = lowered
        self._program = program
        self.plan: Plan = program.plan
        self.crossover = crossover
        self.certificate = certificate
        self.shadow: Shadow | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model on its own inputs, such as `model(input_ids=ids).logits`.

        Raises:
            UsageError: an argument is missing, unknown, or of another dtype or size than the export allows.
        """
        given = self._signature.flatten(args, kwargs)
        graph = self._choose(given)
        flat = [self._default(given, index) if value is None else value for index, value in enumerate(given)]
        outputs = graph(*flat)
        if self.shadow is not None and graph in (self._lowered.hybrid, self._lowered.hybrid_unpadded):
            self.shadow.observe(flat, outputs)
        return self._signature.unflatten(outputs)

    def warmup(self, lengths: Iterable[int], batch: int = 1) -> None:
        """Compile and run the graphs that calls of these lengths take, so that the first real call is a warm one.

        Raises:
            UsageError: the export does not allow a length.
        """
        for length in lengths:
            made_up = made_up_inputs(self._program, self._length_axis, batch, length)
            self._signature.check(made_up)
            given = [None if index in self._masks else value for index, value in enumerate(made_up)]
            # Callers that pass their tokenizer's mask take another hybrid graph than those that leave it out.
            for graph in dict.fromkeys((self._choose(given), self._choose([*made_up]))):
                graph(*made_up)
            if self.shadow is not None:
                self.shadow.warm(made_up)

    def _choose(self, given: list[torch.Tensor | None]) -> CompiledGraph:
        original = self._lowered.original
        if original is not None and not self._guards_hold(given):
            return original
        masks = [given[index] for index in self._masks]
        if self.crossover.takes_hybrid(self._batch(given), self._length(given)):
            # That a mask hides nothing is not worth waiting for the device: our kernels lose little by it.
            masked = self._maybe_padded or any(mask is not None for mask in masks)
            return self._lowered.hybrid if masked else self._lowered.hybrid_unpadded
        if self._maybe_padded or any(mask is not None and not bool(mask.all()) for mask in masks):
            return self._lowered.padded
        return self._lowered.dense

    def _guards_hold(self, given: list[torch.Tensor | None]) -> bool:
        values = ((guard, given[index]) for index, guard in self._guards)
        return all(value is None or guard.holds(value) for guard, value in values)

    def _batch(self, given: list[torch.Tensor | None]) -> int:
        if self._batch_axis is None:
            return 1
        index, axis = self._batch_axis
        value = given[index]
        return 1 if value is None else value.shape[axis]

    def _length(self, given: list[torch.Tensor | None]) -> int:
        if self._length_axis is None:
            return self._fixed_length
        index, axis = self._length_axis
        value = given[index]
        return UNBOUNDED if value is None else value.shape[axis]

    def _default(self, given: list[torch.Tensor | None], index: int) -> torch.Tensor:
        spec = self._program.inputs[index]
        sizes: dict[int | str, int] = {}
        for other, value in zip(self._program.inputs, given, strict=True):
            if value is not None:
                sizes.update(zip(other.shape, value.shape, strict=True))
        shape = [size if isinstance(size, int) else sizes[size] for size in spec.shape]
        dtype, device = getattr(torch, spec.dtype), self._program.device
        return torch.ones(shape, dtype=dtype, device=device)
