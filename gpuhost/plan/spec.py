"""Specs: what a thing is made from. The stamp on the thing is the spec itself, so that one differ can say what differs.

A spec is JSON: dicts, lists, texts, numbers. Pure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from gpuhost.plan.change import Difference

Spec = Mapping[str, Any]


def canonical(spec: Any) -> str:
    """The one text of a spec, whatever the order of its keys: what a stamp holds."""
    return json.dumps(spec, sort_keys=True, separators=(",", ":"))


def digest(spec: Any) -> str:
    """sha256 (hex) of a spec."""
    return hashlib.sha256(canonical(spec).encode()).hexdigest()


def text_digest(text: str) -> str:
    """How a spec names a whole text: 16 hex digits of its sha256."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def parse(stamp: str | None) -> dict[str, Any] | None:
    """The spec that a stamp holds; None when there is none or, after a power cut, it cannot be read."""
    try:
        spec = json.loads(stamp or "")
    except ValueError:
        return None
    return spec if isinstance(spec, dict) else None


def differences(before: Spec, after: Spec) -> tuple[Difference, ...]:
    """The fields that differ between two specs, by dotted name."""
    was, will = _flat(before), _flat(after)
    return tuple(
        Difference(name, was.get(name), will.get(name))
        for name in sorted(was.keys() | will.keys())
        if was.get(name) != will.get(name)
    )


def summary(diff: tuple[Difference, ...]) -> str:
    """A reason in one line: the one field with both values, or the names of all."""
    if len(diff) == 1 and len(line := diff[0].line().removeprefix("~ ")) <= 60:
        return line
    names = [difference.field for difference in diff]
    shown = ", ".join(names[:4])
    return f"{shown} and {len(names) - 4} more differ" if len(names) > 4 else f"{shown} differ"


def _flat(spec: Any, name: str = "") -> dict[str, str]:
    """Dotted name -> the value as text; a list is one value, None is as good as absent."""
    if isinstance(spec, Mapping):
        found: dict[str, str] = {}
        for key, value in spec.items():
            found |= _flat(value, f"{name}.{key}" if name else str(key))
        return found
    if spec is None:
        return {}
    return {name: spec if isinstance(spec, str) else json.dumps(spec)}
