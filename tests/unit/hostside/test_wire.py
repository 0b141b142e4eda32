"""Messages between the two sides: what is written is read back, a fault is one sentence without a value."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostside import protocol, wire
from hostside.protocol.models import ModelFailure, ModelsDone, Stalled, model_event
from hostside.wire import WireError, from_host, from_json, printable, to_json

MARK = "never-to-be-seen"


@dataclass(frozen=True)
class Inner:
    text: str


@dataclass(frozen=True)
class Message:
    """One field of every kind."""

    name: str
    count: int
    seconds: float
    ok: bool
    kind: Literal["one", "two"]
    inner: Inner
    maybe: Inner | None
    many: list[Inner]
    by_name: dict[str, list[int]]
    body: Any


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
JSON = st.recursive(st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.dictionaries(TEXT, inner))
MESSAGES = st.builds(
    Message,
    name=TEXT,
    count=st.integers(),
    seconds=st.floats(allow_nan=False, allow_infinity=False),
    ok=st.booleans(),
    kind=st.sampled_from(["one", "two"]),
    inner=st.builds(Inner, TEXT),
    maybe=st.none() | st.builds(Inner, TEXT),
    many=st.lists(st.builds(Inner, TEXT)),
    by_name=st.dictionaries(TEXT, st.lists(st.integers())),
    body=JSON,
)
SAMPLE = Message("n", 1, 1.5, True, "one", Inner("i"), None, [Inner("m")], {"k": [1]}, None)


@given(MESSAGES)
def test_what_is_written_is_read_back(message: Message) -> None:
    line = to_json(message)
    assert line.isascii() and "\n" not in line
    assert from_json(Message, line) == from_json(Message, line.encode()) == message


def changed(**fields: Any) -> str:
    return json.dumps(json.loads(to_json(SAMPLE)) | fields)


def without(name: str) -> str:
    return json.dumps({key: value for key, value in json.loads(to_json(SAMPLE)).items() if key != name})


WRONG = {
    "no JSON": (MARK, "the message is not JSON"),
    "nothing": ("", "the message is not JSON"),
    "no object": (f'["{MARK}"]', "the message is not an object"),
    "too deep": ("[" * 100_000, "the message is not JSON"),
    "NaN": (changed(seconds=float("nan")), "the message is not JSON"),
    "Infinity": (changed(seconds=float("inf")), "the message is not JSON"),
    "a huge number": (changed(seconds=10**400), "`seconds` is too large"),
    "a missing field": (without("count"), "the message has no field `count`"),
    "an unknown field": (changed(**{MARK: MARK}), "the message has a field that is not known"),
    "a missing field inside": (changed(inner={}), "`inner` has no field `text`"),
    "an unknown field inside": (changed(many=[{"text": "", MARK: 1}]), "`many[0]` has a field that is not known"),
    "no text": (changed(name=[MARK]), "`name` is not a text"),
    "no text inside": (changed(many=[{"text": "a"}, {"text": 1}]), "`many[1].text` is not a text"),
    "true for a number": (changed(count=True), "`count` is not a whole number"),
    "a part of a number": (changed(count=1.5), "`count` is not a whole number"),
    "true for seconds": (changed(seconds=True), "`seconds` is not a number"),
    "text for seconds": (changed(seconds="1"), "`seconds` is not a number"),
    "1 for true": (changed(ok=1), "`ok` is not true or false"),
    "another word": (changed(kind=MARK), "`kind` is none of the known values"),
    "a list for a word": (changed(kind=[MARK]), "`kind` is none of the known values"),
    "null": (changed(inner=None), "`inner` is not an object"),
    "no list": (changed(many={MARK: MARK}), "`many` is not a list"),
    "no dict": (changed(by_name=[MARK]), "`by_name` is not an object"),
    "under a key": (changed(by_name={MARK: [MARK]}), "`by_name.*[0]` is not a whole number"),
    "NUL": (changed(name=f"{MARK}\0"), "`name` holds what is no text"),
    "half a character": (changed(name=f"{MARK}\udcff"), "`name` holds what is no text"),
    "NUL in a key": (changed(by_name={f"{MARK}\0": []}), "`by_name` holds what is no text"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_each_fault_is_one_sentence_without_a_value(fault: str) -> None:
    text, sentence = WRONG[fault]
    with pytest.raises(WireError) as caught:
        from_json(Message, text)
    assert str(caught.value) == sentence and caught.value.__cause__ is None


def test_a_message_has_a_largest_size() -> None:
    whole = to_json(Inner("x" * (wire.MAX_BYTES - 12)))
    assert len(whole) == wire.MAX_BYTES and from_json(Inner, whole)
    with pytest.raises(WireError, match="larger than 16 MiB"):
        from_json(Inner, whole + " ")


def test_infinity_is_not_written() -> None:
    with pytest.raises(ValueError):
        to_json(Stalled("x", "y", float("inf"), 1))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ü and 猫", "plain, ü and 猫"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\nb\rc\td", "a\\nb\\rc d"),
        ("\x9b2J\x7f\0", "\\x9b2J\\x7f\\x00"),
        ("\u202egnp.exe\u2028", "\\u202egnp.exe\\u2028"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_comes_from_a_host_can_be_shown(text: str, shown: str) -> None:
    assert printable(text) == shown
    message = json.dumps(json.loads(to_json(SAMPLE)) | {"name": text, "by_name": {text: []}, "many": [{"text": text}]})
    found = from_host(Message, message)
    assert (found.name, found.by_name, found.many) == (shown, {shown: []}, [Inner(shown)])


@given(st.text())
def test_whatever_is_shown_is_one_line_of_printable_text(text: str) -> None:
    assert printable(text).isprintable() and printable(printable(text)) == printable(text)


def test_an_event_is_of_its_kind() -> None:
    for event in (ModelFailure(None, None, "disk", "full", "free it", 1), ModelsDone(1, 2, 3, 1)):
        assert model_event(to_json(event)) == event
    for line in ("", "3", "{}", '{"event": []}', f'{{"event": "{MARK}"}}', '{"event": "done"}', "[" * 100_000):
        with pytest.raises(WireError) as caught:
            model_event(line)
        assert MARK not in str(caught.value)


def test_every_message_is_of_kinds_that_can_be_read() -> None:
    modules = [import_module(f"{protocol.__name__}.{each.name}") for each in iter_modules(protocol.__path__)]
    kinds = [
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__
    ]
    assert len(kinds) > 20
    for kind in kinds:
        with pytest.raises(WireError):  # and no other error: each field's type is known
            from_json(kind, json.dumps({"unknown": 1}))
        assert wire._hints(kind)
