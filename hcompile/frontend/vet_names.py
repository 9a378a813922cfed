"""Names that torch resolves while it reads a graph: operators, and the types of nested inputs and outputs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from hcompile.frontend.vet import AGAIN, TRUST
from hcompile.safe_operators import TORCH_NAMESPACES, safe_operator

_OPERATOR = re.compile(
    rf"torch\.ops\.({'|'.join(TORCH_NAMESPACES)})\.([A-Za-z_]\w*)\.([A-Za-z_]\w*)", re.ASCII
)
_SIZE_OPERATORS = frozenset(
    [f"torch.sym_{name}" for name in ("not", "int", "float", "ite", "max", "min", "sum")]
    + ["torch._sym_sqrt", "math.ceil", "math.floor", "math.trunc"]
    + [
        f"_operator.{name}"
        for name in (
            "add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg", "pos", "lshift", "rshift",
            "eq", "ne", "le", "ge", "lt", "gt", "and_", "or_",
        )
    ]
)  # fmt: skip
# Operators on subgraphs of torch's own. The rest of this namespace calls back into Python, compiled code or objects.
_HIGHER_ORDER = frozenset(
    f"torch.ops.higher_order.{name}"
    for name in (
        "cond", "while_loop", "scan", "associative_scan", "map_impl", "invoke_subgraph", "out_dtype",
        "wrap_with_set_grad_enabled", "wrap_with_autocast",
    )
)  # fmt: skip
_SPEC_FIELDS = {"type", "context", "children_spec"}
_MOST_NESTING = 60

_MALFORMED = "it does not say how inputs or outputs nest"
_PLAIN = "export a model that takes and returns tensors in tuples, lists and dicts"


class UnsafeName(ValueError):
    """torch would resolve or paste a text that is not of the plain kind it writes.

    The message says why that matters, `advice` what to do.
    """

    def __init__(self, reason: str, advice: str = TRUST) -> None:
        super().__init__(reason)
        self.advice = advice


def check_operator(target: str) -> None:
    """Raise UnsafeName unless `target` is an operator that computes on its tensors and does nothing else."""
    if target in _SIZE_OPERATORS or target in _HIGHER_ORDER:
        return
    match = _OPERATOR.fullmatch(target)
    if match is None:
        raise UnsafeName("the graph calls it, and it is not one of torch's own tensor operators")
    if safe_operator(*match.groups()) is None:
        raise UnsafeName(
            f"the graph calls it, and torch {torch.__version__} has no such operator on tensors alone"
        )


def check_tree(text: str, check_key: Callable[[str, int], None]) -> None:
    """Check how a call's inputs or outputs nest (`treespec_dumps`).

    Args:
        text: the JSON text.
        check_key: raises UnsafeName for a dict key that may not stand; it is given the key and how deep its dict is.

    Raises:
        UnsafeName: it names types that are not registered here or rebuild themselves from more than data.
    """
    _check_spec(_spec(text), check_key, 0)


def plain_tree(text: str) -> str:
    """Return the tree with types of transformers, which are dicts in all but name, as plain dicts."""

    def plain(spec: Any) -> Any:
        if not isinstance(spec, dict):
            return spec
        children = spec.get("children_spec")
        children = [plain(child) for child in children] if isinstance(children, list) else children
        kind = spec.get("type")
        kind = "builtins.dict" if isinstance(kind, str) and kind.startswith("transformers.") else kind
        return {**spec, "type": kind, "children_spec": children}

    try:
        return json.dumps([1, plain(_spec(text))])
    except RecursionError as error:
        raise UnsafeName(_MALFORMED, AGAIN) from error


def _spec(text: str) -> Any:
    try:
        version, spec = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise UnsafeName(_MALFORMED, AGAIN) from error
    if version != 1:
        raise UnsafeName(_MALFORMED, AGAIN)
    return spec


def _check_spec(spec: Any, check_key: Callable[[str, int], None], nesting: int) -> None:
    if not isinstance(spec, dict) or set(spec) != _SPEC_FIELDS or nesting > _MOST_NESTING:
        raise UnsafeName(_MALFORMED, AGAIN)
    kind, context, children = spec["type"], spec["context"], spec["children_spec"]
    if kind is None and context is None and children == []:
        return
    if not isinstance(kind, str) or not isinstance(children, list):
        raise UnsafeName(_MALFORMED, AGAIN)
    python_type = pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.get(kind)
    definition = None if python_type is None else pytree.SUPPORTED_SERIALIZED_TYPES.get(python_type)
    if definition is None:
        raise UnsafeName(f"the type {kind!a} of an input or output is not known here", _PLAIN)
    if definition.from_dumpable_context is not None:
        raise UnsafeName(f"the type {kind!a} imports modules by name when it is rebuilt")
    for key in _keys(context, len(children)):
        check_key(key, nesting)
    for child in children:
        _check_spec(child, check_key, nesting + 1)


def _keys(context: Any, count: int) -> list[str]:
    """Return the keys that a type's context holds, JSON in a string; an object in it could be an import."""
    try:
        value = json.loads(context)
    except (ValueError, TypeError, RecursionError) as error:
        raise UnsafeName("the context of a type is no JSON") from error
    if value is None or isinstance(value, int):
        return []
    if not isinstance(value, list) or not all(isinstance(key, (str, int)) for key in value):
        raise UnsafeName(
            "the context of a type is more than a list of keys, which torch may import modules for"
        )
    if len(value) != count:
        raise UnsafeName("a dict has another number of keys than of values", AGAIN)
    return [key for key in value if isinstance(key, str)]
