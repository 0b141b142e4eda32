"""A value as Python reads it back, within the width that it is given."""

from __future__ import annotations

import ast
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gpuhost.cli.literal import literal

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.integers(20, 120))
def test_python_reads_it_back(value: Any, width: int) -> None:
    [before, *rest] = literal(value, width, "value = ", "  # origin")
    assert before.startswith("value = ") and before.endswith("  # origin")
    text = "\n".join([before.removeprefix("value = ").removesuffix("  # origin"), *rest])
    assert ast.literal_eval(text) == value


@given(st.lists(st.text("abc ", min_size=50, max_size=200), min_size=1))
def test_it_keeps_to_the_width(value: list[str]) -> None:
    assert max(map(len, literal(value, 60, "value = ", "  # origin"))) <= 60


def test_what_fits_stays_on_one_line() -> None:
    assert literal(["a", 1], 80, "x = ", "  # here") == ['x = ["a", 1]  # here']
    long = ["a_long_name = (", "    # here", '    "text"', ")"]
    assert literal("text", 20, "a_long_name = ", "  # here") == long
    assert literal(["a", 1], 19, "x = ", "  # here") == ["x = [  # here", '    "a",', "    1,", "]"]
