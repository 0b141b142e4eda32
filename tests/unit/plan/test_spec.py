"""One differ for every spec."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuhost.plan.change import Difference
from gpuhost.plan.spec import canonical, differences, digest, parse, summary, text_digest

LEAVES = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text(), max_size=3)
SPECS: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.text(min_size=1), LEAVES | st.dictionaries(st.text(min_size=1), LEAVES, max_size=3), max_size=4
)


@given(SPECS)
def test_the_same_spec_is_one_text_and_has_no_differences(spec: dict[str, Any]) -> None:
    backwards = dict(reversed(spec.items()))
    assert canonical(spec) == canonical(backwards) and digest(spec) == digest(backwards)
    assert parse(canonical(spec)) == spec
    assert differences(spec, backwards) == ()


@given(st.dictionaries(st.sampled_from("abc"), st.text(min_size=1)), st.dictionaries(st.sampled_from("abc"), st.text()))
def test_what_differs_is_told_field_by_field(before: dict[str, str], after: dict[str, str]) -> None:
    found = {difference.field: (difference.before, difference.after) for difference in differences(before, after)}
    names = before.keys() | after.keys()
    assert found == {n: (before.get(n), after.get(n)) for n in names if before.get(n) != after.get(n)}


def test_nested_fields_have_dotted_names_and_a_list_is_one_value() -> None:
    before = {"a": {"b": "1", "c": ["x"]}, "gone": True, "never": None}
    after = {"a": {"b": "1", "c": ["x", "y"]}, "new": 2}
    assert differences(before, after) == (
        Difference("a.c", '["x"]', '["x", "y"]'),
        Difference("gone", "true", None),
        Difference("new", None, "2"),
    )


@pytest.mark.parametrize("stamp", [None, "", "{", "[]", "0123abcd"])
def test_a_stamp_that_is_none(stamp: str | None) -> None:
    assert parse(stamp) is None


def test_the_text_of_a_stamp_is_the_same_for_ever() -> None:
    """Another one would make every container and image of every host anew."""
    spec = {"b": [1, "x"], "a": {"é": None}}
    assert canonical(spec) == '{"a":{"\\u00e9":null},"b":[1,"x"]}'
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert text_digest("") == "e3b0c44298fc1c14" and text_digest("\udcff") == text_digest_of(b"\xff")


def text_digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def test_a_reason_names_the_one_field_or_all() -> None:
    one = Difference("memory", "24g", "28g")
    assert summary((one,)) == "memory: 24g -> 28g"
    assert summary((one, Difference("ports", "1", "2"))) == "memory, ports differ"
    assert summary((Difference("memory", "x" * 80, "y"),)) == "memory differ"
    assert summary((Difference("image", "x" * 24, "y" * 25),)) == f"image: {'x' * 24} -> {'y' * 25}"  # 60 characters
    assert summary((Difference("image", "x" * 25, "y" * 25),)) == "image differ"
    assert summary((Difference("new", None, "1"),)) == "+ new: 1"
    five = tuple(Difference(name, "1", "2") for name in "abcde")
    assert summary(five) == "a, b, c, d and 1 more differ"
    four = tuple(Difference(name, "1", "2") for name in "abcd")
    assert summary(four) == "a, b, c, d differ"
    many = tuple(Difference(name, "1", "2") for name in "abcdef")
    assert summary(many) == "a, b, c, d and 2 more differ"
