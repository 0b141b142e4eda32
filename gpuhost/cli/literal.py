"""A value as Python writes it, in double quotes, over as many lines as a width asks for. Pure."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any

STEP = "    "


def literal(value: Any, width: int, before: str = "", note: str = "", indent: str = "") -> list[str]:
    """The lines of a value. `before`: what stands ahead of it on its first line, the indent included; `note`: a comment
    behind that line, or on the next one when it is full."""
    line = before + _inline(value)
    if len(line + note) <= width:
        return [line + note]
    inner = indent + STEP
    if isinstance(value, Mapping) and value:
        brackets = "{}"
        items = [literal(each, width - 1, f"{inner}{_inline(key)}: ", indent=inner) for key, each in value.items()]
    elif isinstance(value, list) and value:
        brackets = "[]"
        items = [literal(each, width - 1, inner, indent=inner) for each in value]
    else:
        brackets, items = "()", []
    lines = [line for item in items for line in [*item[:-1], f"{item[-1]},"]]
    if not items:
        pieces = _pieces(value, width - len(inner) - 2) if isinstance(value, str) else [value]
        lines = [inner + _inline(piece) for piece in pieces]
    opening = before + brackets[0]
    first = [opening + note] if len(opening + note) <= width else [opening, inner + note.strip()]
    return [*first, *lines, indent + brackets[1]]


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_inline(key)}: {_inline(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(each) for each in value) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _pieces(text: str, width: int) -> list[str]:
    """A text in parts that are no longer than a width, as far as nothing in them must be escaped."""
    wrapper = textwrap.TextWrapper(max(width, 1), drop_whitespace=False, replace_whitespace=False, expand_tabs=False)
    return wrapper.wrap(text) or [text]
