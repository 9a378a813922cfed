"""One text for one JSON value."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcompile.errors import BudgetError, EnvironmentFault, HCompileError, KernelError, UsageError
from hcompile.values import canonical_json, sha256_json, sha256_text
from hcompile.versions import library_versions

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text('aé\n"'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner),
    max_leaves=10,
)


@given(values)
def test_canonical_json_is_json_of_the_value(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


def test_the_order_of_keys_does_not_matter() -> None:
    assert (
        canonical_json({"b": 1, "a": [1, 2]}) == canonical_json({"a": [1, 2], "b": 1}) == '{"a":[1,2],"b":1}'
    )
    assert sha256_json({"b": 1, "a": 2}) == sha256_json({"a": 2, "b": 1}) == sha256_text('{"a":2,"b":1}')


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"x": -float("inf")}])
def test_numbers_that_json_lacks_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


def test_sha256_of_utf8() -> None:
    assert sha256_text("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_exit_codes_of_the_error_family() -> None:
    codes = {
        kind: kind.exit_code
        for kind in (HCompileError, UsageError, BudgetError, KernelError, EnvironmentFault)
    }
    assert list(codes.values()) == [1, 2, 3, 4, 5]
    assert all(issubclass(kind, HCompileError) for kind in codes)


def test_versions_are_named_for_every_library_that_makes_a_kernel() -> None:
    versions = library_versions()
    assert set(versions) == {"hcompile", "torch", "triton", "tvm", "tvm_ffi"}
    assert all(isinstance(version, str) and version for version in versions.values())
