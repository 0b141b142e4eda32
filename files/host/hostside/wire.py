"""Messages between the control side and the programs on a host: a dataclass <-> one line of JSON.

Strict on both sides: a field that is missing, unknown or of another type is one error, which names the field and
quotes no value, because a value may be a secret. Standard library only.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

MAX_BYTES = 16 * 2**20  # of one message

T = TypeVar("T")

_NAMES = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


class WireError(Exception):
    """A message that cannot be read. `str()` is one sentence and quotes no value."""


def to_json(message: object) -> str:
    """One line of ASCII for a dataclass."""
    return json.dumps(message, allow_nan=False, default=vars)  # a tenth of the time of `dataclasses.asdict`


def from_json(kind: type[T], text: str | bytes) -> T:
    """A message of the control side, read on the host. Raises WireError."""
    return _parse(kind, text, _plain)


def from_host(kind: type[T], text: str | bytes) -> T:
    """A message of a host, read on the control side: every text in it can be shown on a terminal. Raises WireError."""
    return _parse(kind, text, printable)


def printable(text: str) -> str:
    """The text with control characters (ESC, C1, line ends), marks of direction and the like as their escapes."""
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
        read: T = _Reader(clean).read(kind, value, "")
    except RecursionError:
        raise WireError("the message is nested too deeply") from None
    return read


def _refuse_constant(_: str) -> None:
    """NaN and Infinity are no JSON, though Python's module takes them."""
    raise ValueError


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


@dataclass(frozen=True)
class _Reader:
    """`clean` is applied to every text, keys of objects included."""

    clean: Callable[[str], str]

    def read(self, kind: Any, value: Any, where: str) -> Any:
        if kind is Any:
            return value
        origin = get_origin(kind)
        if origin in (Union, UnionType):
            return self._optional(kind, value, where)
        if origin is Literal:
            if value not in get_args(kind):
                raise WireError(f"`{where}` is none of the known values")
            return value
        if origin is list:
            return self._list(get_args(kind)[0], value, where)
        if origin is dict:
            return self._dict(get_args(kind)[1], value, where)
        return self._object(kind, value, where) if is_dataclass(kind) else self._scalar(kind, value, where)

    def _optional(self, kind: Any, value: Any, where: str) -> Any:
        (inner,) = (each for each in get_args(kind) if each is not type(None))
        return None if value is None else self.read(inner, value, where)

    def _list(self, kind: Any, value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise WireError(f"`{where}` is not a list")
        return [self.read(kind, each, f"{where}[{index}]") for index, each in enumerate(value)]

    def _dict(self, kind: Any, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise WireError(f"`{where}` is not an object")
        # Keys are data, too: none is named.
        return {self._text(key, where): self.read(kind, each, f"{where}.*") for key, each in value.items()}

    def _object(self, kind: Any, value: Any, where: str) -> Any:
        here = f"`{where}`" if where else "the message"
        if not isinstance(value, dict):
            raise WireError(f"{here} is not an object")
        known = [each.name for each in fields(kind)]
        for name in known:
            if name not in value:
                raise WireError(f"{here} has no field `{name}`")
        if len(value) > len(known):
            raise WireError(f"{here} has a field that is not known")
        prefix = f"{where}." if where else ""
        return kind(**{name: self.read(_hints(kind)[name], value[name], f"{prefix}{name}") for name in known})

    def _scalar(self, kind: Any, value: Any, where: str) -> Any:
        if kind is str and isinstance(value, str):
            return self._text(value, where)
        if kind is float and type(value) in (int, float):
            return self._number(value, where)
        if type(value) is not kind:
            raise WireError(f"`{where}` is not {_NAMES[kind]}")
        return value

    def _number(self, value: float, where: str) -> float:
        try:
            return float(value)
        except OverflowError:
            raise WireError(f"`{where}` is too large") from None

    def _text(self, text: str, where: str) -> str:
        try:
            return self.clean(text)
        except ValueError:
            raise WireError(f"`{where}` holds what is no text") from None
