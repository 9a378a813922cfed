"""The sizes and the paddings at which a mask is evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch.fx import Node

from hcompile.passes.evaluate import NotUnderstood, Size, concrete, is_size, operator_name, symbols_of

HIDDEN = -1e4
"""An additive mask at or below this hides a key: the softmax gives it a weight of exactly 0."""

_LENGTHS = (1, 2, 3, 4, 5, 7, 8, 13, 16, 33)
_BATCHES = (1, 2, 3)
LONGEST_NEAR = max(_LENGTHS)
_LARGEST = 2**26
"""Most elements of a mask that is evaluated."""
_NUMBERS = range(2, 2**20)
_DOUBLINGS = 20
_FILLS = frozenset({"masked_fill", "full", "full_like", "scalar_tensor", "where", "mul"})
"""Operators whose very negative numbers are what hidden scores become, and no position."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of an attention, symbols and all."""

    batch: Size
    heads: int
    length: Size


def sizes_near(shape: Shape, dims: Mapping[str, tuple[int, int | None]]) -> list[dict[str, int]]:
    """Return small sizes of every kind, by symbol, without duplicates; those without rows or keys are left out.

    Raises:
        NotUnderstood: batch and length depend on one size, or all small sizes leave no rows or no keys.
    """
    if symbols_of(shape.length) & symbols_of(shape.batch):
        raise NotUnderstood("its batch and its length depend on one size")
    chosen = [
        _sizes(shape, dims, _BATCHES[place % len(_BATCHES)], length) for place, length in enumerate(_LENGTHS)
    ]
    filled = [
        sizes
        for sizes in chosen
        if min(int(concrete(size, sizes)) for size in (shape.batch, shape.length)) > 0
    ]
    if not filled:
        raise NotUnderstood("its batch or its length is 0 at every size that is tried")
    return list({tuple(sorted(sizes.items())): sizes for sizes in filled}.values())


def sizes_far(
    cone: list[Node],
    heads: int,
    shape: Shape,
    tensors: Mapping[str, torch.Tensor],
    dims: Mapping[str, tuple[int, int | None]],
) -> list[dict[str, int]]:
    """Return sizes past every number that the mask is made of, if there are any; `sizes_near` has to find some, too.

    Args:
        cone: the nodes that make the mask.
        heads: how many heads the evaluated mask holds.
    """
    far = max((number for node in _with_sizes(cone) for number in _numbers(node, tensors)), default=0)
    symbols = symbols_of(shape.length)
    if symbols and any(node.op == "get_attr" and tensors[str(node.target)].numel() > 1 for node in cone):
        ends = [dims.get(name, (1, None))[1] for name in symbols]
        if None in ends:
            raise NotUnderstood("its mask is stored, and the length has no limit up to which to compare it")
        far = max(far, *(end for end in ends if end is not None))
    if not far or not symbols:
        return []
    # A batch such as B // 2 is empty for the smallest B.
    tried = ((batch, _sizes(shape, dims, batch, far + 2)) for batch in _BATCHES)
    batch, sizes = next((b, chosen) for b, chosen in tried if int(concrete(shape.batch, chosen)) > 0)
    length = int(concrete(shape.length, sizes))
    # A length such as S // 8 falls short of its symbol: grow that until the length is past, or at its limit.
    for doubled in range(1, _DOUBLINGS):
        larger = _sizes(shape, dims, batch, (far + 2) << doubled)
        if length >= far + 2 or larger == sizes:
            break
        sizes, length = larger, int(concrete(shape.length, larger))
    else:
        raise NotUnderstood(f"its length cannot be made longer than {far}, where its mask may change")
    if heads * length * length > _LARGEST:
        raise NotUnderstood(
            f"its mask would have to be evaluated at a length of {length}, which takes too much memory"
        )
    return [sizes]


def _sizes(
    shape: Shape, dims: Mapping[str, tuple[int, int | None]], batch: int, length: int
) -> dict[str, int]:
    wide, long = symbols_of(shape.batch), symbols_of(shape.length)
    chosen = dict.fromkeys(dims, 3) | dict.fromkeys(wide, batch) | dict.fromkeys(long, length)
    limits = {name: dims.get(name, (1, None)) for name in chosen}
    return {
        name: max(limits[name][0], min(value, limits[name][1] or value)) for name, value in chosen.items()
    }


def _with_sizes(cone: list[Node]) -> list[Node]:
    """Return the cone and the sizes that it uses."""
    met, waiting = set(cone), list(cone)
    while waiting:
        for used in waiting.pop().all_input_nodes:
            if used not in met and is_size(used):
                met.add(used)
                waiting.append(used)
    return list(met)


def _numbers(node: Node, tensors: Mapping[str, torch.Tensor]) -> Iterator[int]:
    """Yield the numbers a node is made with at which a rule of positions could change."""
    values = [value for value in (*node.args, *node.kwargs.values()) if isinstance(value, (int, float))]
    fills = operator_name(node) in _FILLS
    if node.op == "get_attr" and tensors[str(node.target)].numel() == 1:
        values.append(float(tensors[str(node.target)]))
        fills = tensors[str(node.target)].is_floating_point()
    for value in values:
        if abs(value) < _NUMBERS.stop and int(abs(value)) in _NUMBERS and not (fills and value <= HIDDEN):
            yield int(abs(value)) + 1


def paddings(batch: int, length: int, *, every: bool) -> Iterator[torch.Tensor]:
    """Yield bool `[batch, length]`: none, left, right, and if `every`, holes, one token, all, and mixed rows."""
    position = torch.arange(length)
    row = torch.arange(batch)[:, None]
    yield torch.ones(batch, length, dtype=torch.bool)
    yield position >= (row + 1) % length
    yield position < length - (row + 1) % length
    if not every:
        return
    yield torch.zeros(batch, length, dtype=torch.bool)
    yield (position + row) % 3 != 1
    yield position == (length // 2 + row) % length
    generator = torch.Generator().manual_seed(length)
    for _ in range(3):
        yield torch.rand(batch, length, generator=generator) < 0.6
