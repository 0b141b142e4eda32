"""Layers of data over each other: a mapping merges, anything else replaces, `None` takes its key away. Pure.

A key that is taken away is gone when it is an entry, and back at its default when it is a field. Every value remembers
the layer that gave it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any


@dataclass(frozen=True)
class Layer:
    """What one source says. `origin`: its name for people: a file, `the inventory, host gpu1`, `--data`."""

    origin: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Value:
    """A value and the layer that gave it; for a mapping, whose values are in `fields`, the last layer that named it.

    `whole`: the mapping replaced something that was none, so nothing that lies below it counts.
    """

    origin: str
    content: Any = None
    fields: Mapping[str, Value] | None = None
    whole: bool = False


def value(origin: str, content: Any) -> Value:
    """The value that one layer gives."""
    if not isinstance(content, Mapping):
        return Value(origin, content)
    return Value(origin, fields={str(key): value(origin, each) for key, each in content.items()})


def merge(below: Value, above: Value) -> Value:
    """One value over another. `None` stays as a value here, so that merging is associative; plain() drops it."""
    if above.fields is None or above.whole:
        return above
    if below.fields is None:
        return replace(above, whole=True)
    merged = {
        key: merge(below.fields[key], above.fields[key])
        if key in below.fields and key in above.fields
        else (above.fields.get(key) or below.fields[key])
        for key in [*below.fields, *(key for key in above.fields if key not in below.fields)]
    }
    return Value(above.origin, fields=merged, whole=below.whole)


def plain(merged: Value) -> Any:
    """The value without its origins, and without the keys that were taken away."""
    if merged.fields is None:
        return merged.content
    return {key: plain(each) for key, each in merged.fields.items() if not _taken_away(each)}


def _taken_away(each: Value) -> bool:
    return each.fields is None and each.content is None


class Layered:
    """The data of one host: all its layers, merged."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        listed = list(layers)
        self._first = listed[0].origin if listed else "group_data/all.py"
        self._root = reduce(
            merge, (value(layer.origin, layer.values) for layer in listed), Value(self._first, fields={})
        )

    @property
    def values(self) -> dict[str, Any]:
        """name -> value, as the catalogue takes it."""
        return dict(plain(self._root))

    def origin(self, field: str) -> str:
        """The layer that gave a dotted field; of one that nobody gave, the last layer that named its entry.

        A name of the top level that nobody gave is missing in the first layer.
        """
        found, rest = self._root, field
        while found.fields is not None and rest:
            # A key may hold a dot itself: the longest one that fits.
            fitting = [key for key in found.fields if f"{rest}.".startswith(f"{key}.")]
            if not fitting:
                break
            key = max(fitting, key=len)
            found, rest = found.fields[key], rest[len(key) + 1 :]
        return self._first if found is self._root else found.origin

    def given(self, path: Iterable[str]) -> Value | None:
        """The value at a path of keys, None when no layer gave one; it is inside a list for a path into one."""
        found = self._root
        for key in path:
            if found.fields is None:
                return found
            if key not in found.fields:
                return None
            found = found.fields[key]
        return found

    def taken_away(self) -> dict[str, str]:
        """name -> layer of every entry (`services.painter`) that a layer took away."""
        sections = (section.fields or {} for section in (self._root.fields or {}).values())
        return {name: each.origin for section in sections for name, each in section.items() if _taken_away(each)}


def leaves(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path of keys, value) of everything in a mapping that is no mapping itself, or an empty one."""
    for key, each in values.items():
        if isinstance(each, Mapping) and each:
            yield from leaves(each, (*path, str(key)))
        else:
            yield (*path, str(key)), each
