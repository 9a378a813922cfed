"""The copy engine's descriptors as arguments of a launch, kept by the address that they hold.

Triton makes a descriptor's arguments anew at each launch, a microsecond or two for each on the host. They depend on the
address, the shape and the strides of a tensor, and memory that is freed and asked for again mostly has the address of
before. So they are made by Triton's own function once, and passed to a launcher of Triton's own class whose signature
names them in the descriptor's place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from inspect import signature
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.nvidia.driver import make_tensordesc_arg
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

_MOST_ADDRESSES = 16
"""That are kept of a tensor of a call; then they are forgotten."""
_REST = (None,) * (len(signature(make_tensordesc_arg).parameters) - 2)
"""Triton 3.9 passes one argument more, which it does not read."""


@dataclass(slots=True, eq=False)
class Described:
    """What descriptors of tensors of one shape and with the same strides share.

    Attributes:
        block: the shape that is copied at a time; layout: of that in shared memory, a `gl.NVMMASharedLayout`.
    """

    block: list[int]
    layout: Any
    _known: dict[int, list[Any]] = field(default_factory=dict)

    def descriptor(self, tensor: torch.Tensor) -> TensorDescriptor:
        """Return Triton's descriptor of an `aligned` tensor, without the checks of the constructor, which those are."""
        made = object.__new__(TensorDescriptor)
        made.base, made.shape, made.strides = tensor, tensor.shape, tensor.stride()
        made.block_shape, made.layout = self.block, self.layout
        return made

    def arguments(self, tensor: torch.Tensor, meta: Any) -> list[Any]:
        """Return the descriptor, the shape and the strides as a launcher takes them.

        Args:
            meta: how the compiled kernel wants this descriptor, the same in each call.
        """
        address = tensor.data_ptr()
        found = self._known.get(address)
        if found is None:
            if len(self._known) >= _MOST_ADDRESSES:
                self._known.clear()
            found = self._known[address] = make_tensordesc_arg(self.descriptor(tensor), meta, *_REST)
        return found


def launcher_of_arguments(compiled: Any) -> Any:
    """Return what launches a compiled kernel like `compiled.run`, with `arguments` in the place of descriptors."""
    expanded: list[Any] = []
    for kind in compiled.src.signature.values():
        if isinstance(kind, str) and kind.startswith("tensordesc"):
            rank = kind.partition("[")[2].partition("]")[0].count(",") + 1
            expanded += ["nvTmaDesc", *["i32"] * rank, *["i64"] * rank]
        else:
            expanded.append(kind)
    source = SimpleNamespace(signature=dict(enumerate(expanded)), constants={})
    return triton.runtime.driver.active.launcher_cls(source, compiled.metadata._replace(tensordesc_meta=None))
