"""Which heads of a call have linear far fields, and their maps as the kernels read them: found out once for a node."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from weakref import ref

import torch

from hcompile.codegen.triton_gpu.heads import HeadOrder, order_of, read
from hcompile.codegen.triton_gpu.inputs import check_params
from hcompile.errors import KernelError
from hcompile.far_field import FarFields, check_far_fields
from hcompile.known import Known, version_of
from hcompile.patterns.linear import FEATURES

_InTwo = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The heads of a call, some of which have far fields.

    Attributes:
        near: those without one. far: those with one.
        maps: what queries and keys are multiplied with, as the sum of two of their dtype, `[Hq, 2, 2, F, D]`.
        biases: float32 `[Hq, 2, F]`.
    """

    near: HeadOrder
    far: HeadOrder
    maps: torch.Tensor
    biases: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """What was found out about tensors that were as these then.

    Attributes:
        tensors: the parameters, the maps and the flags of the heads. versions: of these. sizes: of queries.
        split: None where no head has a far field.
    """

    tensors: tuple[ref[torch.Tensor], ref[torch.Tensor], ref[torch.Tensor]]
    versions: tuple[int, int, int]
    sizes: tuple[int, int, torch.device]
    split: Split | None

    def is_of(self, head_params: torch.Tensor, far: FarFields, q: torch.Tensor) -> bool:
        params, maps, heads = self.tensors
        return (
            params() is head_params
            and maps() is far.maps
            and heads() is far.heads
            and self.versions == _versions(head_params, far)
            and self.sizes == _sizes(q)
        )

    @property
    def gone(self) -> bool:
        return any(tensor() is None for tensor in self.tensors)


class Splits:
    """The heads of the nodes that one kernel is bound to."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], _Found] = {}
        # Where windows widen, a node has other parameters for other lengths, and the same maps.
        self._maps: dict[torch.dtype, Known[_InTwo]] = {}
        self._captured: list[Split] = []

    def of(
        self, head_params: torch.Tensor, far: FarFields | None, q: torch.Tensor, causal: bool
    ) -> Split | None:
        """Return the heads of a call, None where none has a far field.

        Raises:
            KernelError: the far fields or the parameters do not fit the call, or a CUDA graph is being captured, and
                they were not seen before.
        """
        if far is None:
            return None
        key = id(head_params), id(far.maps), id(far.heads), q.dtype
        found = self._known.get(key)
        if found is None or not causal or not found.is_of(head_params, far, q):
            check_far_fields(far, q, causal, FEATURES)
            check_params(head_params, q.shape[1])
            in_two = self._maps.setdefault(q.dtype, Known(partial(_in_two, q.dtype)))
            found = _find(head_params, far, q, in_two)
            self._known = {at: each for at, each in list(self._known.items()) if not each.gone}
            self._known[key] = found
        split = found.split
        capturing = q.is_cuda and torch.cuda.is_current_stream_capturing()
        if capturing and split is not None and not any(split is each for each in self._captured):
            self._captured.append(split)  # The graph addresses it for as long as it lives.
        return split


def _find(head_params: torch.Tensor, far: FarFields, q: torch.Tensor, in_two: Known[_InTwo]) -> _Found:
    """Raises: KernelError while a CUDA graph is being captured, or where a head reads lists beside a far field."""
    flags = [flag for (flag,) in read(far.heads[:, None])]
    split = None
    if any(flags):
        rows = list(enumerate(read(head_params)))
        near, of_far = ([row for row in rows if bool(flags[row[0]]) is wanted] for wanted in (False, True))
        order = order_of(of_far, head_params.device)
        if order.list_heads:
            raise KernelError(f"attention: {order.list_heads} heads are routed and have far fields: give one")
        split = Split(order_of(near, head_params.device), order, *in_two(far.maps))
        if q.is_cuda:
            torch.cuda.current_stream(q.device).synchronize()  # Other streams read the maps.
    tensors = ref(head_params), ref(far.maps), ref(far.heads)
    return _Found(tensors, _versions(head_params, far), _sizes(q), split)


def _versions(head_params: torch.Tensor, far: FarFields) -> tuple[int, int, int]:
    return version_of(head_params), version_of(far.maps), version_of(far.heads)


def _sizes(q: torch.Tensor) -> tuple[int, int, torch.device]:
    shape = q.shape
    return shape[1], shape[3], q.device


def _in_two(dtype: torch.dtype, maps: torch.Tensor) -> _InTwo:
    maps = maps.to(torch.float32)
    weights = maps[..., :-1]
    upper = weights.to(dtype)
    lower = (weights - upper.to(torch.float32)).to(dtype)
    return torch.stack([upper, lower], dim=2).contiguous(), maps[..., -1].contiguous()
