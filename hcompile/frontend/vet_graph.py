"""The JSON members of an export archive, checked against torch's own schema before torch reads them.

Every value must have exactly the type that the schema gives it, and every text must satisfy the rule of its field:
torch pastes names into generated Python, looks operators and output types up by name, evaluates sizes and executes
guards. A text field that a later torch adds has no rule here and is refused until somebody has read what torch does
with it.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import keyword
import re
import types
import typing
from collections.abc import Callable
from typing import Any

from torch._export.serde import schema
from torch._export.serde.union import _Union

from hcompile.frontend.vet import AGAIN, TRUST, Refused
from hcompile.frontend.vet_expressions import (
    OutsideGrammar,
    check_guard,
    check_size_expression,
    check_symbol,
)
from hcompile.frontend.vet_names import UnsafeName, check_operator, check_tree, plain_tree

_NEWER = "export the model with torch 2.11 to 2.13"
# Everything else a node carries is for debuggers, and torch resolves names in some of it.
_KEPT_METADATA = ("nn_module_stack", "torch_fn")

_WORD = re.compile(r"[A-Za-z0-9_.+<>=-]{1,200}")
_ASSERTION = re.compile(r"torch\.ops\.aten\._(functional_)?assert_\w+\.\w+")


def vet_graph(document: Any) -> None:
    """Check the graph of an archive and prepare it for torch, in place.

    Output types of transformers become plain dicts with the same keys, so that they need no transformers, and node
    metadata that only debuggers read is dropped.

    Args:
        document: the value of `models/model.json`.

    Raises:
        Refused: the graph is malformed, or torch could run code while it reads or uses it.
    """
    _vet(schema.ExportedProgram, document, "models/model.json")
    for entry in document["graph_module"]["module_call_graph"]:
        if signature := entry.get("signature"):
            signature["out_spec"] = plain_tree(signature["out_spec"])


def vet_payloads(document: Any, member: str) -> schema.PayloadConfig:
    """Check the description of an archive's weights or constants and return it.

    Raises:
        Refused: it is malformed, or names a pickle.
    """
    _vet(schema.PayloadConfig, document, member)
    for name, payload in document["config"].items():
        path = payload["path_name"]
        if not path.startswith(("weight_", "tensor_")):
            raise Refused(f"{member}: {name} is stored as an object, not a tensor, in {path}", TRUST)
        if payload["use_pickle"]:
            raise Refused(f"{member}: {name} is stored as a pickle in {path}", TRUST)
    config: schema.PayloadConfig = as_schema(schema.PayloadConfig, document)
    return config


def as_schema(cls: type, document: Any) -> Any:
    """Return the schema object of a vetted JSON value, built as torch builds it."""
    from torch._export.serde.serialize import _dict_to_dataclass

    return _dict_to_dataclass(cls, document)


def _vet(cls: type, document: Any, member: str) -> None:
    try:
        _Vetting(member).visit(cls, document)
    except RecursionError as error:
        raise Refused(f"{member} nests too deeply", AGAIN) from error


class _Vetting:
    """One walk over one document; `trail` is where it stands, for messages."""

    def __init__(self, member: str) -> None:
        self.member = member
        self.trail: list[str] = []
        self.in_assertion = False

    def refuse(self, reason: str, advice: str) -> Refused:
        place = [self.member, ".".join(self.trail[-6:]), reason]
        return Refused(": ".join(part for part in place if part), advice)

    def visit(self, kind: Any, value: Any, owner: str = "", field: str = "") -> None:
        """Check `value` against the type `kind` of the field `owner.field`."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            if value is not None:
                self.visit(
                    next(each for each in arguments if each is not types.NoneType), value, owner, field
                )
        elif origin is list and isinstance(value, list):
            for index, item in enumerate(value):
                self.step(str(index), arguments[0], item, owner, field)
        elif origin is dict and isinstance(value, dict):
            for key, item in value.items():
                self.check_text(key, owner, f"{field} key")
                self.step(key[:40], arguments[1], item, owner, field)
        elif kind is str and isinstance(value, str):
            self.check_text(value, owner, field)
        elif dataclasses.is_dataclass(kind) and isinstance(value, dict):
            self.visit_class(kind, value)
        elif not _is_plain(kind, value):
            raise self.refuse(f"{_shown(value)} is not of type {getattr(kind, '__name__', kind)}", AGAIN)

    def step(self, name: str, kind: Any, value: Any, owner: str, field: str) -> None:
        self.trail.append(name)
        self.visit(kind, value, owner, field)
        self.trail.pop()

    def visit_class(self, cls: Any, value: dict[str, Any]) -> None:
        one_of = issubclass(cls, _Union)
        if one_of and (len(value) != 1 or not value.keys() <= _hints(cls).keys()):
            raise self.refuse(f"this torch knows no {cls.__name__} of {_shown(list(value))}", _NEWER)
        if cls is schema.Node:
            if isinstance(metadata := value.get("metadata"), dict):
                value["metadata"] = {key: metadata[key] for key in _KEPT_METADATA if key in metadata}
            self.in_assertion = bool(_ASSERTION.fullmatch(str(value.get("target"))))
        elif cls is schema.GraphModule:
            value["metadata"] = {}
        for field in dataclasses.fields(cls):  # torch ignores others
            if field.name in value:
                self.step(field.name, _hints(cls)[field.name], value[field.name], cls.__name__, field.name)
            elif not one_of and field.default is field.default_factory is dataclasses.MISSING:
                raise self.refuse(f"{cls.__name__} lacks {field.name}", AGAIN)
        self.in_assertion = self.in_assertion and cls is not schema.Node

    def check_text(self, text: str, owner: str, field: str) -> None:
        rule = _RULES.get((owner, field))
        if rule is None:
            raise self.refuse(f"this hcompile does not know the text {_shown(field)} in {owner}", _NEWER)
        try:
            if rule is _check_string and self.in_assertion:
                _check_message(text)
            else:
                rule(text)
        except UnsafeName as error:
            raise self.refuse(f"{_shown(text)}: {error}", error.advice) from error
        except OutsideGrammar as error:
            raise self.refuse(
                f"{_shown(text)} is not an expression that torch writes: {error}", TRUST
            ) from error


def _check_name(text: str) -> None:
    if not text.isidentifier() or keyword.iskeyword(text):
        raise UnsafeName("torch would paste it into code as a name, and it is none")


def _check_argument(text: str) -> None:
    if text and not text.isidentifier():
        raise UnsafeName("torch would paste it into code as an argument's name, and it is none")


def _check_path(text: str) -> None:
    """Names of weights and modules: any printable text that stays inside the quotes torch may put around it."""
    dunder = any(part.startswith("__") and part.endswith("__") for part in text.split("."))
    if not text.isprintable() or set(text) & set("\"'\\") or dunder:
        raise UnsafeName("torch would paste it into code as an attribute, and it is none")


def _check_string(text: str) -> None:
    if not text.isprintable() or set(text) & set("\"'\\{}"):
        raise UnsafeName("torch may paste it into code, and it could end the quotes around it")


def _check_message(text: str) -> None:
    if not all(letter.isprintable() or letter == "\n" for letter in text) or "\\" in text:
        raise UnsafeName("an assertion's message is plain text")


def _check_label(text: str) -> None:
    if not text.isprintable() or "\\" in text:
        raise UnsafeName("the label of a module is plain text on one line")


def _check_word(text: str) -> None:
    if not _WORD.fullmatch(text):
        raise UnsafeName("it is no plain word")


def _check_file(text: str) -> None:
    _check_word(text)
    if text.startswith("."):
        raise UnsafeName("it is no plain file name")


def _check_verifier(text: str) -> None:
    if text not in ("ATEN", "TRAINING"):
        raise UnsafeName("it is not one of torch's own verifiers")


def _check_input_tree(text: str) -> None:
    # The outermost dict holds the keyword arguments, which become parameters of a generated function.
    check_tree(text, lambda key, nesting: _check_name(key) if nesting <= 1 else _check_string(key))


def _check_output_tree(text: str) -> None:
    check_tree(plain_tree(text), lambda key, nesting: _check_string(key))


def _refuse_object(text: str) -> None:
    raise UnsafeName("the graph takes a custom object, which only a pickle can hold")


_RULES: dict[tuple[str, str], Callable[[str], None]] = {
    ("Argument", "as_operator"): check_operator,
    ("Argument", "as_string"): _check_string,
    ("Argument", "as_string_to_argument key"): _check_string,
    ("Argument", "as_strings"): _check_string,
    ("BufferMutationSpec", "buffer_name"): _check_path,
    ("ConstantValue", "as_string"): _check_string,
    ("CustomObjArgument", "class_fqn"): _refuse_object,
    ("CustomObjArgument", "name"): _refuse_object,
    ("Device", "type"): _check_word,
    ("ExportedProgram", "guards_code"): check_guard,
    ("ExportedProgram", "opset_version key"): _check_word,
    ("ExportedProgram", "range_constraints key"): check_symbol,
    ("ExportedProgram", "torch_version"): _check_word,
    ("ExportedProgram", "verifiers"): _check_verifier,
    ("GradientToParameterSpec", "parameter_name"): _check_path,
    ("GradientToUserInputSpec", "user_input_name"): _check_name,
    ("Graph", "custom_obj_values key"): _refuse_object,
    ("Graph", "sym_bool_values key"): _check_name,
    ("Graph", "sym_float_values key"): _check_name,
    ("Graph", "sym_int_values key"): _check_name,
    ("Graph", "tensor_values key"): _check_name,
    ("GraphArgument", "name"): _check_name,
    ("GraphModule", "treespec_namedtuple_fields key"): _check_word,
    ("InputToBufferSpec", "buffer_name"): _check_path,
    ("InputToConstantInputSpec", "name"): _check_name,
    ("InputToCustomObjSpec", "custom_obj_name"): _refuse_object,
    ("InputToParameterSpec", "parameter_name"): _check_path,
    ("InputToTensorConstantSpec", "tensor_constant_name"): _check_path,
    ("ModuleCallEntry", "fqn"): _check_path,
    ("ModuleCallSignature", "forward_arg_names"): _check_name,
    ("ModuleCallSignature", "in_spec"): _check_input_tree,
    ("ModuleCallSignature", "out_spec"): _check_output_tree,
    ("NamedArgument", "name"): _check_argument,
    ("NamedTupleDef", "field_names"): _check_name,
    ("Node", "metadata key"): _check_word,
    ("Node", "metadata"): _check_label,
    ("Node", "name"): _check_name,
    ("Node", "target"): check_operator,
    ("ParameterMutationSpec", "parameter_name"): _check_path,
    ("PayloadConfig", "config key"): _check_path,
    ("PayloadMeta", "path_name"): _check_file,
    ("SymBoolArgument", "as_name"): _check_name,
    ("SymExpr", "expr_str"): check_size_expression,
    ("SymFloatArgument", "as_name"): _check_name,
    ("SymIntArgument", "as_name"): _check_name,
    ("TensorArgument", "name"): _check_name,
    ("TokenArgument", "name"): _check_name,
    ("UserInputMutationSpec", "user_input_name"): _check_name,
}


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls, globalns=vars(schema))


def _is_plain(kind: Any, value: Any) -> bool:
    if kind is float:
        return type(value) in (int, float) or value in ("Infinity", "-Infinity", "NaN")
    if isinstance(kind, type) and issubclass(kind, enum.IntEnum):
        return type(value) is int and any(value == member for member in kind)
    return kind in (bool, int) and type(value) is kind and -(2**63) <= value < 2**64


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
