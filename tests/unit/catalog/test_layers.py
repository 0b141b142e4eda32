"""Layers: a mapping merges, anything else replaces, None takes a key away, and every leaf knows who gave it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gpuhost.catalog.layers import Layer, Layered, Value, leaves, merge, plain, value

KEYS = st.sampled_from(["a", "b", "c", "a.b"])
LEAVES = st.none() | st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2)
CONTENTS = st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=8)
MAPPINGS = st.dictionaries(KEYS, CONTENTS, max_size=3)
LAYERS = st.lists(MAPPINGS, min_size=1, max_size=4).map(
    lambda contents: [Layer(f"file{number}", content) for number, content in enumerate(contents)]
)


def merged(below: Any, above: Any) -> Any:
    """The rule, said once more and without origins."""
    if not isinstance(above, Mapping):
        return above
    kept = {**below} if isinstance(below, Mapping) else {}
    for key, each in above.items():
        kept[key] = merged(kept.get(key), each)
    return {key: each for key, each in kept.items() if each is not None}


def at(content: Any, path: tuple[str, ...]) -> tuple[bool, Any]:
    """(whether a layer says something at a path or of what holds it, what it says there)."""
    for key in path:
        if not isinstance(content, Mapping):
            return True, None
        if key not in content:
            return False, None
        content = content[key]
    return True, content


@given(LAYERS)
def test_the_rule(layers: list[Layer]) -> None:
    assert Layered(layers).values == reduce(merged, (layer.values for layer in layers), {})


@given(CONTENTS, CONTENTS, CONTENTS)
def test_it_is_associative(first: Any, second: Any, third: Any) -> None:
    one, two, three = value("one", first), value("two", second), value("three", third)
    assert merge(merge(one, two), three) == merge(one, merge(two, three))


@given(CONTENTS)
def test_a_layer_over_itself_says_nothing_new(content: Any) -> None:
    assert plain(merge(value("one", content), value("one", content))) == plain(value("one", content))


@given(LAYERS)
def test_the_origin_of_a_leaf_is_the_last_layer_that_gave_it(layers: list[Layer]) -> None:
    made = Layered(layers)
    for path, content in leaves(made.values):
        if content == {}:
            continue
        last = next(layer for layer in reversed(layers) if at(layer.values, path)[0])
        assert at(last.values, path)[1] == content
        given = made.given(path)
        assert given and (given.origin, given.content) == (last.origin, content)


def test_a_key_may_hold_a_dot() -> None:
    """`services.qwen3.5.port`: the longest key that fits is meant."""
    layers = [
        Layer("first", {"services": {"qwen3": {"5": {"port": 1}, "port": 2}}}),
        Layer("second", {"services": {"qwen3.5": {"port": 3}}}),
    ]
    made = Layered(layers)
    assert made.origin("services.qwen3.5.port") == "second"
    assert made.origin("services.qwen3.port") == "first"


@given(LAYERS)
def test_what_nobody_gave_is_a_default(layers: list[Layer]) -> None:
    made = Layered(layers)
    assert made.given(("absent",)) is None
    for path, content in leaves(made.values):
        if isinstance(content, dict):
            assert made.given((*path, "absent")) is None


SHIPPED = {"services": {"api": {"port": 1, "memory": "2g"}, "v1.2": {"port": 2}}, "mount": None}
SITE = {"services": {"api": {"memory": "4g"}, "gone": None}, "mount": "/srv"}
LAYERED = Layered([Layer("all.py", SHIPPED), Layer("site.py", SITE)])


def test_a_site_changes_single_fields() -> None:
    assert LAYERED.values == {
        "services": {"api": {"port": 1, "memory": "4g"}, "v1.2": {"port": 2}},
        "mount": "/srv",
    }


def test_origins_by_their_dotted_field() -> None:
    fields = {
        "services.api.port": "all.py",
        "services.api.memory": "site.py",
        "services.api": "site.py",  # the last that named it
        "services.api.absent": "site.py",
        "services.v1.2.port": "all.py",  # a key with a dot
        "services.v1.2.absent": "all.py",
        "services.absent.port": "site.py",
        "services.gone": "site.py",
        "mount": "site.py",
        "absent": "all.py",  # every layer lacks it: the first one is where all names stand
        "absent.too": "all.py",
    }
    assert {field: LAYERED.origin(field) for field in fields} == fields


def test_what_was_taken_away_does_not_shine_through() -> None:
    layers = [Layer("1", {"a": {"x": 1}}), Layer("2", {"a": None}), Layer("3", {"a": {"y": 2}})]
    assert Layered(layers).values == {"a": {"y": 2}}
    assert Layered(layers[:2]).values == {} and Layered(layers[:2]).given(["a"]) == Value("2", None)


def test_entries_that_were_taken_away() -> None:
    assert LAYERED.taken_away() == {"gone": "site.py"}
    back = Layered([Layer("1", {"a": {"x": None, "y": None}, "b": None}), Layer("2", {"a": {"x": 1}})])
    assert back.taken_away() == {"y": "1"}


def test_a_list_is_replaced_as_a_whole_and_keeps_what_it_holds() -> None:
    layers = [Layer("1", {"a": [{"x": 1}]}), Layer("2", {"a": [{"y": None}]})]
    assert Layered(layers).values == {"a": [{"y": None}]}


def test_no_layer_at_all() -> None:
    assert (Layered([]).values, Layered([]).origin("engine_source")) == ({}, "group_data/all.py")


def test_what_is_no_mapping_or_an_empty_one_is_a_leaf() -> None:
    found = list(leaves({"a": {"b": 1, "c": {"d": []}}, "e": {}, "f": {"g": {}}}))
    assert found == [(("a", "b"), 1), (("a", "c", "d"), []), (("e",), {}), (("f", "g"), {})]
