"""Messages between the control side and the programs on a host: a dataclass <-> one line of JSON.

Strict on both sides: a field that is missing, unknown or of another type is one error, which names the field and
quotes no value, because a value may be a secret. Standard library only.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

MAX_BYTES = 16 * 2**20  # of one message

T = TypeVar("T")

_Read = Callable[[Any], Any]


class WireError(Exception):
    """A message that cannot be read. `str()` is one sentence and quotes no value."""


_written = json.JSONEncoder(allow_nan=False, default=vars)  # a tenth of the time of `dataclasses.asdict`


def to_json(message: object) -> str:
    """One line of ASCII for a dataclass."""
    return _written.encode(message)


def from_json(kind: type[T], text: str | bytes) -> T:
    """A message of the control side, read on the host. Raises WireError."""
    return _parse(kind, text, _plain)


def from_host(kind: type[T], text: str | bytes) -> T:
    """A message of a host, read on the control side: every text in it can be shown on a terminal. Raises WireError."""
    return _parse(kind, text, printable)


def printable(text: str) -> str:
    """The text with control characters (ESC, C1, line ends), marks of direction and the like as their escapes."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text.replace("\t", " ")
    )


def _plain(text: str) -> str:
    """The text itself, when it is one that files and programs can take. Raises ValueError."""
    if "\0" in text:
        raise ValueError
    text.encode()  # a lone surrogate has no UTF-8
    return text


def _parse(kind: type[T], text: str | bytes, clean: Callable[[str], str]) -> T:
    if len(text) > MAX_BYTES:
        raise WireError(f"the message is larger than {MAX_BYTES >> 20} MiB")
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise WireError("the message is not JSON") from None
    try:
        read: T = _reader(cast(Any, kind), clean)(value)
    except RecursionError:
        raise WireError("the message is nested too deeply") from None
    except _Wrong as wrong:
        raise WireError(wrong.sentence()) from None
    return read


def _refuse_constant(_: str) -> None:
    """NaN and Infinity are no JSON, though Python's module takes them."""
    raise ValueError


class _Wrong(Exception):
    """A value that is not of its kind. `where`: the steps to it, the last one first."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.where: list[str] = []

    def sentence(self) -> str:
        where = "".join(reversed(self.where)).removeprefix(".")
        return f"{f'`{where}`' if where else 'the message'} {self.what}"


@functools.cache
def _reader(kind: Any, clean: Callable[[str], str]) -> _Read:
    """What makes a value of a kind from one of JSON, and raises `_Wrong`. `clean` is applied to every text, keys of
    objects included."""
    if kind is Any:
        return lambda value: value
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (only,) = (each for each in inner if each is not type(None))
        return _optional(_reader(only, clean))
    if origin is Literal:
        return _one_of(inner)
    if origin is list:
        return _list(_reader(inner[0], clean))
    if origin is dict:
        return _dict(_text(clean), _reader(inner[1], clean))
    if is_dataclass(kind):
        return _object(kind, {name: _reader(hint, clean) for name, hint in _hints(kind).items()})
    return {str: _text(clean), float: _number}.get(kind) or _scalar(kind)


def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}


def _optional(inner: _Read) -> _Read:
    return lambda value: None if value is None else inner(value)


def _one_of(known: tuple[Any, ...]) -> _Read:
    def read(value: Any) -> Any:
        if value not in known:
            raise _Wrong("is none of the known values")
        return value

    return read


def _list(inner: _Read) -> _Read:
    def read(value: Any) -> Any:
        if not isinstance(value, list):
            raise _Wrong("is not a list")
        found: list[Any] = []
        try:
            for each in value:
                found.append(inner(each))
        except _Wrong as wrong:
            wrong.where.append(f"[{len(found)}]")
            raise
        return found

    return read


def _dict(key: _Read, inner: _Read) -> _Read:
    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _Wrong("is not an object")
        found = {}
        for name, each in value.items():
            clean_name = key(name)
            try:
                found[clean_name] = inner(each)
            except _Wrong as wrong:
                wrong.where.append(".*")  # keys are data, too: none is named
                raise
        return found

    return read


def _object(kind: Any, known: dict[str, _Read]) -> _Read:
    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _Wrong("is not an object")
        if len(value) != len(known) or value.keys() != known.keys():
            missing = next((f"has no field `{name}`" for name in known if name not in value), None)
            raise _Wrong(missing or "has a field that is not known")
        found = {}
        for name, inner in known.items():
            try:
                found[name] = inner(value[name])
            except _Wrong as wrong:
                wrong.where.append(f".{name}")
                raise
        return kind(**found)

    return read


def _text(clean: Callable[[str], str]) -> _Read:
    def read(value: Any) -> Any:
        if not isinstance(value, str):
            raise _Wrong("is not a text")
        try:
            return clean(value)
        except ValueError:
            raise _Wrong("holds what is no text") from None

    return read


def _number(value: Any) -> Any:
    if type(value) not in (int, float):
        raise _Wrong("is not a number")
    try:
        return float(value)
    except OverflowError:
        raise _Wrong("is too large") from None


def _scalar(kind: Any) -> _Read:
    name = {bool: "true or false", int: "a whole number"}[kind]

    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise _Wrong(f"is not {name}")
        return value

    return read
