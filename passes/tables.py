"""Which lengths a program's tables of positions serve: an export allows longer ones, and a compiled graph that reads
behind a table ends the process."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.fx import Node

from hcompile.passes.evaluate import Evaluator, NotUnderstood, symbols_of
from hcompile.program import Program


def within_tables(program: Program) -> Program:
    """Return the program with each dynamic size limited to what every table serves that is read by position.

    That is a table whose rows depend on sizes alone. The program must come from an export (its nodes carry traced
    shapes).
    """
    dims = dict(program.dims)
    for node in program.graph.graph.nodes:
        read = _table_and_rows(node)
        if read is None:
            continue
        table, rows = read
        for symbol in {symbol for size in rows.meta["val"].shape for symbol in symbols_of(size)} & set(dims):
            least, most = dims[symbol]
            longest = _longest(program, rows, table.meta["val"].shape[0], symbol)
            if longest is not None and longest >= least:
                dims[symbol] = (least, longest if most is None else min(most, longest))
    return program if dims == program.dims else program.replace(dims=dims)


def _table_and_rows(node: Node) -> tuple[Node, Node] | None:
    """Return a stored table and which of its rows `node` takes, None where it takes none."""
    table: Any
    rows: Any
    if node.target is torch.ops.aten.embedding.default:
        table, rows = node.args[:2]
    elif node.target is torch.ops.aten.index.Tensor:
        table, rows = node.args[0], cast("list[Any]", node.args[1])[0]
    else:
        return None
    if not isinstance(table, Node) or table.op != "get_attr" or not isinstance(rows, Node):
        return None
    return (table, rows) if not rows.meta["val"].is_floating_point() else None


def _longest(program: Program, rows: Node, count: int, symbol: str) -> int | None:
    """Return the largest size whose rows are among `count`; None where all are, or they rest on more than sizes."""
    others = {name: max(1, least) for name, (least, _) in program.dims.items()}

    def served(size: int) -> bool:
        found = Evaluator(program.tensors, {**others, symbol: size}, {}).tensor(rows)
        return not found.numel() or bool((found < count).all())

    good, bad = max(1, program.dims[symbol][0]), 2 * count
    try:
        if good >= bad or not served(good) or served(bad):
            return None
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if served(middle) else (good, middle)
    except NotUnderstood:
        return None
    return good
