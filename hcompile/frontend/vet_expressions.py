"""The grammars of the two kinds of expression text in an export archive, checked before torch evaluates them.

torch writes sizes as sympy constructors (`Mul(Integer(2), Symbol('s70', integer=True))`) and reads them back
through `sympy.sympify`, which is `eval`; it writes guards as Python (`(L['x'].size()[1] % 4) == 0`) and runs them
through `exec`. Both are Python expressions, so they are parsed as such, never evaluated, and every node of the tree
must be a number, a size, an operator or a call of a listed function. Powers are kept small as well, so that no
text can make sympy compute an integer of a billion digits.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MOST_CHARACTERS = 100_000
_MOST_NESTING = 150
_LARGEST = 2**63
_MOST_EXPONENT = 64
_MOST_STACKED_POWERS = 2

# No quote but ', no backslash, comment, line break or letter beyond ASCII: torch pastes this text into source.
_TEXT = re.compile(r"[A-Za-z0-9_ .,()\[\]'+\-*/%<>=!&|^~]*")
_SYMBOL = re.compile(r"(?:s|u|zf|zuf)[0-9]{1,6}")
_FLOAT = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{0,40})?(?:e[+-]?[0-9]{1,3})?")
_ASSUMPTIONS = _words("integer positive negative zero nonzero nonnegative nonpositive real finite even odd")

_POWERS = (ast.Pow, ast.LShift, ast.RShift)
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.BitAnd, ast.BitOr)
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_POWER_FUNCTIONS = _words("Pow PowByNatural FloatPow LShift RShift")
_UNARY_FUNCTIONS = _words("sqrt cos cosh sin sinh tan tanh asin acos atan exp log asinh log2")
_SIZE_FUNCTIONS = _POWER_FUNCTIONS.union(
    _words("Integer Rational Add Mul Mod Max Min Abs floor ceiling And Or Not Piecewise ExprCondPair"),
    _words("Equality Unequality LessThan StrictLessThan GreaterThan StrictGreaterThan Eq Ne Le Lt Ge Gt"),
    _words("FloorDiv CleanDiv CeilDiv FloatTrueDiv IntTrueDiv ModularIndexing PythonMod Where Identity"),
    _words("CeilToInt FloorToInt TruncToInt TruncToFloat RoundToInt RoundDecimal ToFloat"),
    _words(
        "BitwiseFn_bitwise_and BitwiseFn_bitwise_or BitwiseFn_bitwise_xor IsNonOverlappingAndDenseIndicator"
    ),
    (f"OpaqueUnaryFn_{name}" for name in _UNARY_FUNCTIONS),
)
_SIZE_CONSTANTS = _words("true false oo nan pi")
_GUARD_FUNCTIONS = _words(
    "max min abs round math.floor math.ceil math.trunc torch.sym_float torch._sym_sqrt"
).union(_words("IsNonOverlappingAndDenseIndicator"), (f"math.{name}" for name in _UNARY_FUNCTIONS))
_GUARD_CONSTANTS = _words("math.inf math.nan inf")


class OutsideGrammar(ValueError):
    """The text is not an expression that torch writes. The message says what is wrong with it."""


def check_symbol(name: str) -> None:
    """Raise OutsideGrammar unless `name` is how torch names a dynamic size: s, u, zf or zuf and a number."""
    if not _SYMBOL.fullmatch(name):
        raise OutsideGrammar("it is not the name of a size")


def check_size_expression(text: str) -> None:
    """Raise OutsideGrammar unless `text` is a size as torch.export writes it (sympy constructors, infix)."""
    _SizeGrammar(text).check()


def check_guard(text: str) -> None:
    """Raise OutsideGrammar unless `text` is a condition on input sizes as torch.export writes it (Python)."""
    _GuardGrammar(text).check()


@dataclass(frozen=True, slots=True)
class _Part:
    """What a checked part may be used for: `powers` stacked in it, whether it may stand as an exponent."""

    powers: int = 0
    exponent: bool = False


class _Grammar:
    """Numbers, operators and calls; what else a name may mean is for the two grammars to say."""

    functions: frozenset[str] = frozenset()
    constants: frozenset[str] = frozenset()
    operators: tuple[type[ast.operator], ...] = _ARITHMETIC

    def __init__(self, text: str) -> None:
        self.text = text.strip(" ")

    def check(self) -> None:
        self.part(_parsed(self.text))

    def part(self, node: ast.expr, nesting: int = 0) -> _Part:
        if nesting > _MOST_NESTING:
            raise OutsideGrammar(f"it nests deeper than {_MOST_NESTING}")

        def inner(*nodes: ast.expr) -> list[_Part]:
            return [self.part(each, nesting + 1) for each in nodes]

        match node:
            case ast.Constant(value=bool() | float()):
                return _Part()
            case ast.Constant(value=int(value)):
                if value > _LARGEST:
                    raise OutsideGrammar("a number has more than 64 bits")
                return _Part(exponent=value <= _MOST_EXPONENT)
            case ast.UnaryOp(operand=operand):
                return inner(operand)[0]
            case ast.BinOp(left=left, op=operator, right=right) if isinstance(operator, _POWERS):
                return _power(inner(left, right))
            case ast.BinOp(left=left, op=operator, right=right) if isinstance(operator, self.operators):
                return _joined(inner(left, right))
            case ast.BoolOp(values=values):
                return _joined(inner(*values))
            case ast.Compare(left=left, ops=ops, comparators=others):
                if all(isinstance(op, _COMPARISONS) for op in ops):
                    return _joined(inner(left, *others))
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return _joined(inner(test, body, orelse))
        if (special := self.special(node)) is not None:
            return special
        match node:
            case ast.Call(func=function, args=arguments, keywords=[]) if _dotted(function) in self.functions:
                parts = inner(*arguments)
                if _dotted(function) in _POWER_FUNCTIONS:
                    return _power(parts)
                literal = _dotted(function) in ("Integer", "Rational") and all(
                    part.exponent for part in parts
                )
                return _joined(parts, exponent=literal)
            case ast.Name() | ast.Attribute() if _dotted(node) in self.constants:
                return _Part()
        shown = self.text[node.col_offset : node.end_col_offset]
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise OutsideGrammar(f"{shown} is not among what it may hold")

    def special(self, node: ast.expr) -> _Part | None:
        """Return the part if the node is a size in this grammar."""
        raise NotImplementedError


class _SizeGrammar(_Grammar):
    functions = _SIZE_FUNCTIONS
    constants = _SIZE_CONSTANTS

    def special(self, node: ast.expr) -> _Part | None:
        match node:
            case ast.Name(id=name) if _SYMBOL.fullmatch(name):
                return _Part(exponent=True)
            case ast.Call(ast.Name("Symbol"), [ast.Constant(str(name))], keywords):
                check_symbol(name)
                if all(word.arg in _ASSUMPTIONS and _is_bool(word.value) for word in keywords):
                    return _Part(exponent=True)
            case ast.Call(ast.Name("Float"), [ast.Constant(str(digits))], [ast.keyword("precision", bits)]):
                if _FLOAT.fullmatch(digits) and isinstance(bits, ast.Constant) and bits.value == 53:
                    return _Part()
        return None


class _GuardGrammar(_Grammar):
    functions = _GUARD_FUNCTIONS
    constants = _GUARD_CONSTANTS
    # In a size, sympy would read ^ as a power.
    operators = (*_ARITHMETIC, ast.BitXor)

    def special(self, node: ast.expr) -> _Part | None:
        match node:
            case ast.Subscript(ast.Call(ast.Attribute(path, "size" | "stride"), [], []), ast.Constant(int())):
                pass
            case ast.Call(ast.Attribute(path, "storage_offset"), [], []):
                pass
            case _:
                path = node
        return _Part(exponent=True) if _is_input_path(path) else None


def _parsed(text: str) -> ast.expr:
    if len(text) > _MOST_CHARACTERS:
        raise OutsideGrammar(f"it is longer than {_MOST_CHARACTERS} characters")
    if strange := _TEXT.sub("", text, count=1):
        raise OutsideGrammar(f"the character {strange[0]!a} has no place in it")
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise OutsideGrammar(f"it does not parse ({type(error).__name__})") from error


def _is_input_path(node: ast.expr) -> bool:
    """Tell whether the node is `L['x']`, followed by any number of constant indices."""
    match node:
        case ast.Subscript(ast.Name("L"), ast.Constant(str())):
            return True
        case ast.Subscript(path, ast.Constant(str() | int())):
            return _is_input_path(path)
    return False


def _is_bool(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, bool)


def _dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(ast.Name(id=module), name):
            return f"{module}.{name}"
    return ""


def _joined(parts: list[_Part], exponent: bool = False) -> _Part:
    return _Part(max((part.powers for part in parts), default=0), exponent)


def _power(parts: list[_Part]) -> _Part:
    if len(parts) != 2:
        raise OutsideGrammar("a power takes a base and an exponent")
    base, exponent = parts
    if not exponent.exponent:
        raise OutsideGrammar(f"an exponent is neither a size nor a number up to {_MOST_EXPONENT}")
    if base.powers == _MOST_STACKED_POWERS:
        raise OutsideGrammar(f"it stacks more than {_MOST_STACKED_POWERS} powers")
    return _Part(base.powers + 1)
