"""The grammars take what torch writes and nothing that could call, import, look up or compute without bound."""

from __future__ import annotations

import re

import pytest
import sympy  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._sympy import functions
from torch.utils._sympy.printers import PythonPrinter

from hcompile.frontend import vet_expressions
from hcompile.frontend.vet_expressions import (
    OutsideGrammar,
    check_guard,
    check_size_expression,
    check_symbol,
)

KNOWN = {"L", "and", "or", "not", "if", "else", "True", "False"}.union(
    vet_expressions._SIZE_FUNCTIONS,
    vet_expressions._SIZE_CONSTANTS,
    vet_expressions._GUARD_FUNCTIONS,
    vet_expressions._GUARD_CONSTANTS,
)
SIZES = [sympy.Symbol("s77", positive=True, integer=True), sympy.Symbol("u0", integer=True)]


def combined(parts: st.SearchStrategy[sympy.Expr]) -> st.SearchStrategy[sympy.Expr]:
    pairs = st.tuples(parts, parts)
    positive = st.integers(1, 64).map(sympy.Integer)
    return st.one_of(
        pairs.map(lambda pair: pair[0] + pair[1]),
        pairs.map(lambda pair: pair[0] * pair[1]),
        pairs.map(lambda pair: functions.Max(*pair)),
        pairs.map(lambda pair: functions.Min(*pair)),
        st.tuples(parts, positive).map(lambda pair: functions.FloorDiv(*pair)),
        st.tuples(parts, positive).map(lambda pair: functions.PythonMod(*pair)),
        st.tuples(parts, positive).map(lambda pair: functions.IntTrueDiv(*pair)).map(functions.CeilToInt),
        st.tuples(parts, parts, parts).map(lambda three: functions.Where(three[0] > 1, three[1], three[2])),
    )


sizes = st.recursive(st.sampled_from(SIZES) | st.integers(-99, 99).map(sympy.Integer), combined, max_leaves=6)


@settings(max_examples=150, deadline=None)
@given(size=sizes)
def test_every_size_that_sympy_writes_is_taken(size: sympy.Expr) -> None:
    check_size_expression(sympy.srepr(size))
    check_size_expression(sympy.srepr(sympy.Ge(size, SIZES[0])))


@settings(max_examples=150, deadline=None)
@given(size=sizes)
def test_every_condition_that_torch_prints_is_taken(size: sympy.Expr) -> None:
    if size.has(functions.Where):
        return  # torch has no Python form of it
    text = PythonPrinter().doprint(sympy.Ne(size, 7, evaluate=False))
    check_guard(text.replace("s77", "L['x'].size()[0]").replace("u0", "L['kw']['a b'][3].stride()[1]"))


@pytest.mark.parametrize(
    "text",
    [
        "s0 + 2*u1 // 3",
        "Symbol('zuf3', real=True)",
        "Float('1.5e-7', precision=53)",
        "Rational(-1, 2)",
        "Pow(Symbol('s0', integer=True), Integer(-1))",
        "PowByNatural(Integer(2), Symbol('s0', integer=True))",
        "OpaqueUnaryFn_sqrt(ToFloat(Symbol('s0', integer=True)))",
        "And(StrictLessThan(s0, Integer(3)), Not(Equality(s0, Integer(1))))",
        "-oo",
        "true",
    ],
)
def test_size_is_taken(text: str) -> None:
    check_size_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "L['x'].size()[1] <= 512",
        "not (L['x'].size()[0] == 1 or 2 % L['y'].stride()[0] != 0)",
        "L['flat_args'][0].storage_offset() == 0",
        "(L['n'] ^ 3) == 1 or (L['n'] & 1) != 0",
        "max(1, L['n']) ** 2 >= math.floor(L['n'] / 2) and L['scale'] < math.inf",
        "(L['n'] if L['n'] > 1 else 0) == torch.sym_float(L['n'])",
    ],
)
def test_guard_is_taken(text: str) -> None:
    check_guard(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("__import__('os').system('x')", "not among what it may hold"),
        ("().__class__.__bases__", "not among"),
        ("s0.__class__", "not among"),
        ("(s0)(s0)", "not among"),
        ("Integer(*s0)", "not among"),
        ("Integer(n=1)", "not among"),
        ("[s0 for s0 in s1]", "not among"),
        ("s0 in s1", "not among"),
        ("Max", "not among"),
        ("'s0'", "not among"),
        ("b's0'", "not among"),
        ("1j", "not among"),
        ("None", "not among"),
        ("L['x'].size()[0]", "not among"),
        ("lambda: s0", "the character ':'"),
        ("(s0 := s1)", "the character ':'"),
        ('f"{s0}"', "the character"),
        ("s0 # s1", "the character '#'"),
        ("(s0\n)", "the character '\\n'"),
        ("s0\\", "the character"),
        ("ſ0", "the character '\\u017f'"),
        ("Symbol('x')", "not the name of a size"),
        ("Symbol('s0', commutative=False)", "not among"),
        ("Symbol('s0', integer=s1)", "not among"),
        ("Float('inf')", "not among"),
        ("Float('1', precision=10**9)", "not among"),
        ("9**9**9", "an exponent is neither"),
        ("9^9^9", "not among"),
        ("Pow(Integer(9), Integer(65))", "an exponent is neither"),
        ("LShift(Integer(1), Add(Integer(64), Integer(64)))", "an exponent is neither"),
        ("((s0**64)**64)**64", "stacks more than 2"),
        ("Pow(s0)", "a base and an exponent"),
        ("99999999999999999999", "more than 64 bits"),
        ("9" * 5000, "does not parse"),
        ("(" * 300 + "s0" + ")" * 300, "does not parse"),
        ("-" * 50_000 + "s0", "does not parse"),
        ("s0 + " * 300 + "s0", "nests deeper"),
        ("s0" * 100_000, "longer than"),
        ("", "does not parse"),
        ("s0 s1", "does not parse"),
    ],
)
def test_text_that_torch_never_writes_as_a_size_is_refused(text: str, reason: str) -> None:
    with pytest.raises(OutsideGrammar, match=re.escape(reason)):
        check_size_expression(text)


def test_a_sum_too_long_for_some_parsers_is_refused() -> None:
    # Which check refuses it depends on the recursion limit, which some libraries raise on import.
    with pytest.raises(OutsideGrammar, match=r"does not parse|nests deeper"):
        check_size_expression("s0 + " * 5000 + "s0")


@pytest.mark.parametrize(
    "text",
    [
        "L",
        "L[0]",
        "L['x'].data",
        "L['x'].size",
        "L['x'].size()",
        "L['x'].size(1)[0]",
        "L['x'].size()[L['y']]",
        "L['x'].item()",
        "L[L['x']]",
        "args[0] == 1",
        "s0 == 1",
        "torch.load('x')",
        "math.comb(9, 9)",
        "os.system",
        "max(L['x'], key=abs)",
        "L['x'] == 'a'",
        "open('x')",
    ],
)
def test_text_that_torch_never_writes_as_a_guard_is_refused(text: str) -> None:
    with pytest.raises(OutsideGrammar, match="not among what it may hold"):
        check_guard(text)


@settings(max_examples=300, deadline=None)
@given(text=st.text("s0123u Lx'()[],.+-*/%<>=!_&|^~anotifelse") | st.text(max_size=20))
def test_random_text_is_refused_or_holds_known_names_alone(text: str) -> None:
    for check in (check_size_expression, check_guard):
        try:
            check(text)
        except OutsideGrammar:
            continue
        called = re.sub(r"'[^']*'", "", text)
        for name in re.findall(r"(?<![\w.])[A-Za-z_][\w.]*", called):
            assert name in KNOWN or re.fullmatch(r"[su]\d+", name), text


@pytest.mark.parametrize("name", ["s0", "u17", "zf3", "zuf123456"])
def test_symbol_is_taken(name: str) -> None:
    check_symbol(name)


@pytest.mark.parametrize("name", ["", "s", "x0", "s0 ", "s-1", "u1234567", "s0\n", "s٣"])
def test_other_symbol_is_refused(name: str) -> None:
    with pytest.raises(OutsideGrammar, match="not the name of a size"):
        check_symbol(name)
