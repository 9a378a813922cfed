"""Launches kernels, and asks Triton only once for each kind of call.

`kernel[grid](...)` looks at every argument of every call, for its type and for what the compiler may assume of it,
makes a text of that and of the options, and looks the text up: most of a call's time on the host. What it decides by is
the device, the dtype, the constants, and whether addresses and strides are multiples of 16; sizes it may not look at
(`do_not_specialize` in `kernels/`), or a growing cache would be compiled for anew. So a call whose key is known starts
the code that the first one with that key was given.

Checks of a call and the numbers of its launch depend on a few facts, mostly shapes: those are kept by the facts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import torch
import triton
from triton.runtime.jit import JITFunction

from hcompile.codegen.triton_gpu.descriptors import Described, launcher_of_arguments

_TRIED = ("3.6.", "3.9.")
"""Versions of Triton whose `CompiledKernel.run` takes what is passed here; others launch by `kernel[grid](...)`."""
_INT32 = 31
"""Bits of an int32 without its sign: an integer that needs more is an int64 to the compiler."""
MOST_CALLS = 1024
"""Calls that are kept ready, some megabyte; then they are forgotten, and prepared again as they come."""


@dataclass(frozen=True, slots=True)
class Code:
    """What a kernel was compiled to, with all that a launch reads of it: some are properties of Triton's object.

    Attributes:
        kernel: that object, which owns the code.
        metas: how it wants each of its descriptors.
    """

    kernel: Any
    run: Callable[..., None]
    function: int
    packed_metadata: tuple[int, ...]
    metas: tuple[Any, ...]


@dataclass(slots=True, eq=False)
class Call:
    """A launch but for its tensors; calls of the same shapes share one.

    Attributes:
        device: index of the GPU, -1 for none. key: of the code. numbers: all arguments behind the pointers.
        described: of each descriptor. workspace: elements of memory that the kernel works in.
    """

    device: int
    grid: tuple[int, int]
    numbers: tuple[float, ...]
    key: tuple[object, ...]
    described: tuple[Described, ...]
    workspace: int
    code: Code | None


class Launcher:
    """The launches of one kernel with the same options.

    The kernel's arguments are, in this order: descriptors, pointers whose alignment the compiler knows, other pointers,
    sizes, `scale`, strides, constants. Triton's settings (`triton.knobs`) count as they are at the first call of a key.
    """

    def __init__(self, kernel: Any, **options: int) -> None:
        self._kernel = kernel
        self._options = options
        # Under the interpreter a kernel is of another class, and nothing is compiled.
        self._direct = isinstance(kernel, JITFunction) and triton.__version__.startswith(_TRIED)
        self._codes: dict[tuple[object, ...], Code] = {}
        self._ready: dict[object, Call] = {}

    def ready(self, facts: object) -> Call | None:
        """Return the call that was prepared for these facts."""
        return self._ready.get(facts)

    def prepare(
        self,
        facts: object,
        first: torch.Tensor,
        grid: tuple[int, int],
        sizes: Sequence[int],
        scale: float | None,
        strides: Sequence[int],
        constants: tuple[int, ...],
        described: tuple[Described, ...] = (),
        workspace: int = 0,
    ) -> Call:
        """Return a call on the device of `first`, whose dtype is that of all that is multiplied, and keep it ready.

        Args:
            facts: what all that follows is determined by.
            sizes: integers that nothing is compiled by; strides: integers whose divisibility is. scale: None where the
                kernel takes none.
            constants: they and the dtype determine the dtypes of all pointers, and blocks and layouts of `described`.
        """
        index = first.get_device()
        key = (index, first.dtype, constants, assumptions(sizes, strides))
        numbers = (*sizes, *([] if scale is None else [scale]), *strides, *constants)
        call = Call(index, grid, numbers, key, described, workspace, self._codes.get(key))
        if len(self._ready) >= MOST_CALLS:
            self._ready.clear()
        self._ready[facts] = call
        return call

    def __call__(
        self,
        call: Call,
        described: Sequence[torch.Tensor],
        aligned: Sequence[torch.Tensor],
        others: Sequence[torch.Tensor],
    ) -> None:
        """Launch on the current stream of the call's device.

        Args:
            described: tensors that are passed as descriptors.
            aligned: tensors whose address the compiler is told to be a multiple of 16, where it is one.
        """
        if call.device >= 0 and call.device != current_device():
            with torch.cuda.device(call.device):
                self(call, described, aligned, others)
            return
        addresses = [tensor.data_ptr() for tensor in aligned]
        code = call.code
        if code is None or reduce(or_, addresses, 0) & 15 or _watched():
            self._by_triton(call, described, aligned, others)
            return
        arguments: list[Any] = []
        for each, tensor, meta in zip(call.described, described, code.metas, strict=True):
            arguments += each.arguments(tensor, meta)
        code.run(
            *call.grid,
            1,
            current_stream(call.device),
            code.function,
            code.packed_metadata,
            *(None, None, None),  # What hooks are told, and the hooks: `_watched` says that there are none.
            *arguments,
            *addresses,
            *[tensor.data_ptr() for tensor in others],
            *call.numbers,
        )

    def _by_triton(
        self,
        call: Call,
        described: Sequence[torch.Tensor],
        aligned: Sequence[torch.Tensor],
        others: Sequence[torch.Tensor],
    ) -> None:
        descriptors = [
            each.descriptor(tensor) for each, tensor in zip(call.described, described, strict=True)
        ]
        kernel = self._kernel[call.grid](*descriptors, *aligned, *others, *call.numbers, **self._options)
        # There is no kernel where a hook of Triton's has taken the compiling over.
        if self._direct and kernel is not None and not any(tensor.data_ptr() % 16 for tensor in aligned):
            if call.key not in self._codes:
                metas = tuple(kernel.metadata.tensordesc_meta) if call.described else ()
                run = launcher_of_arguments(kernel) if call.described else kernel.run
                self._codes[call.key] = Code(kernel, run, kernel.function, kernel.packed_metadata, metas)
            call.code = self._codes[call.key]


def assumptions(sizes: Sequence[int], strides: Sequence[int]) -> object:
    """Return what the compiler may assume of integers, as a key: what has one key is compiled alike.

    Nearly all calls have None: every stride is a multiple of 16, and every integer an int32.
    """
    union = reduce(or_, strides, 0)
    if not (union & 15 or reduce(or_, sizes, union) >> _INT32):
        return None
    return (
        tuple(size >> _INT32 for size in sizes),
        tuple((stride & 15 == 0, stride == 1, stride >> _INT32) for stride in strides),
    )


def current_device() -> int:
    """Return the index of the current GPU. `torch.cuda.current_device` asks first whether there is one."""
    return torch._C._cuda_getDevice()


def current_stream(index: int) -> int:
    """Return the handle of a GPU's current stream."""
    return torch._C._cuda_getCurrentRawStream(index)


def _watched() -> bool:
    """Whether a profiler wants to be told of launches: Triton tells it."""
    runtime = triton.knobs.runtime
    enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))
