"""docs/reference/data.md: every field of `group_data`, from the types. Pure, but for the types' own source.

`python -m gpuhost.catalog.reference` prints it (`make docs` keeps it). What a field means is the text below it in
types.py, which Python itself does not keep.
"""

from __future__ import annotations

import ast
import inspect
import runpy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gpuhost.catalog import types
from gpuhost.project import PROJECT

Hint: TypeAlias = Any  # an annotation
_WORDS: Mapping[Hint, str] = {str: "text", int: "whole number", float: "number", bool: "`True` or `False`", Any: "any"}
_LIMITS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "min_length": "{} at least"}
_LONGEST = 60  # characters of a value that is shown


@dataclass(frozen=True)
class Section:
    """A type and where in the data it stands first."""

    kind: type[BaseModel]
    path: str

    @property
    def heading(self) -> str:
        """What it is linked by; two kinds of entry may stand in one place."""
        kinds = {types.BuildImage: ", built", types.PullImage: ", pulled"}
        return f"`{self.path}`{kinds.get(self.kind, '')}"

    @property
    def link(self) -> str:
        """To its heading, as GitHub makes the anchor."""
        anchor = "".join(sign for sign in self.heading.lower() if sign.isalnum() or sign in "_- ").replace(" ", "-")
        return f"[{self.heading}](#{anchor})"


def page() -> str:
    """The page."""
    sections = {section.kind: section for section in _sections(types.Catalog, "")}
    shipped = runpy.run_path(str(PROJECT / "group_data" / "all.py"))
    return "\n".join(
        [
            _HEAD,
            *_table(types.Catalog, sections, "shipped", shipped),
            *(line for kind, section in sections.items() if section.path for line in _section(kind, sections)),
            "",
            "## Kinds of values",
            "",
            "| kind | what it is |",
            "| --- | --- |",
            *(f"| {name} | {_texts(types)[name]} |" for name in _aliases()),
            "",
        ]
    )


_HEAD = """\
# Data: every field

What a host should be is data: gpuhost's [group_data/all.py](../../group_data/all.py), and single fields of it that a
[site](../site.md) changes. A field that is not on this page is refused. `gpuhost config` shows what is in force for a
host, `gpuhost config --origin` which file says so, `gpuhost check` whether it is in order.

Values are Python literals. Units stand in the names: `_s` seconds, `_mib` MiB, `_gib` GiB. `NAME` in a heading is a
name that you choose. "shipped" is what group_data/all.py says.

`make docs` writes this page from the types ([types.py](../../gpuhost/catalog/types.py)); a test compares them.

## Of a host
"""


def _sections(kind: type[BaseModel], path: str) -> Iterator[Section]:
    """Every type below one, each where it stands first: the nearer ones before those that lie deeper."""
    found: dict[type[BaseModel], Section] = {}
    waiting = [Section(kind, path)]
    while waiting:
        section = waiting.pop(0)
        if section.kind in found:
            continue
        found[section.kind] = section
        for name, hint in _hints(section.kind).items():
            below = f"{section.path}.{name}" if section.path else name
            waiting += [Section(entry, below + steps) for entry, steps in _entries(hint, "")]
    yield from found.values()


def _entries(hint: Hint, steps: str) -> Iterator[tuple[type[BaseModel], str]]:
    """The types of entries in an annotation, and the steps from its field to them."""
    origin: Hint = get_origin(hint)
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        yield hint, steps
    elif origin is Annotated:
        yield from _entries(get_args(hint)[0], steps)
    else:
        step = ".NAME" if origin is dict else "[]" if origin is list else ""
        for part in get_args(hint):
            yield from _entries(part, steps + step)


def _section(kind: type[BaseModel], sections: Mapping[type[BaseModel], Section]) -> list[str]:
    about = inspect.cleandoc(kind.__doc__ or "")
    return ["", f"## {sections[kind].heading}", "", about, "", *_table(kind, sections, "default", {})]


def _table(
    kind: type[BaseModel], sections: Mapping[type[BaseModel], Section], column: str, shipped: Mapping[str, Any]
) -> Iterator[str]:
    yield f"| field | type | {column} | what it means |"
    yield "| --- | --- | --- | --- |"
    for name, hint in _hints(kind).items():
        field = kind.model_fields[name]
        cells = [f"`{name}`", _shown(hint, sections) + _limits(hint, field), _default(name, field, shipped)]
        yield f"| {' | '.join([*cells, _texts(kind)[name]])} |"


def _hints(kind: type[BaseModel]) -> dict[str, Hint]:
    hints = get_type_hints(kind, include_extras=True)
    return {name: hints[name] for name in kind.model_fields}


def _shown(hint: Hint, sections: Mapping[type[BaseModel], Section]) -> str:
    """An annotation in words. What may be None says so by its default or its text."""
    if named := _named(hint):
        return f"[{named}](#kinds-of-values)"
    if isinstance(hint, type) and hint in sections:
        return sections[hint].link
    origin: Hint = get_origin(hint)
    parts = get_args(hint)
    if origin is Annotated:
        return _shown(parts[0], sections)
    if origin is Literal:
        return ", ".join(f"`{value!r}`".replace("'", '"') for value in parts)
    if origin is list:
        return f"list of {_shown(parts[0], sections)}"
    if origin is dict:
        return f"{_shown(parts[0], sections)} → {_shown(parts[1], sections)}"
    if origin in (Union, UnionType):
        return " or ".join(_shown(part, sections) for part in parts if part is not NoneType)
    return _WORDS[hint]


def _limits(hint: Hint, field: FieldInfo) -> str:
    """Those of the field itself; those of a kind of value stand there."""
    if _named(hint):
        return ""
    return "".join(
        f", {words.format(getattr(limit, name))}"
        for limit in field.metadata
        for name, words in _LIMITS.items()
        if getattr(limit, name, None) is not None
    )


def _named(hint: Hint) -> str | None:
    """The kind of value that an annotation is."""
    return next((name for name, alias in _aliases().items() if alias == hint), None)


def _default(name: str, field: FieldInfo, shipped: Mapping[str, Any]) -> str:
    if name not in shipped and field.is_required():
        return "**required**"
    value = shipped[name] if name in shipped else field.get_default()
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_defaults=True)
    text = repr(value).replace("'", '"')
    return f"`{text}`" if len(text) <= _LONGEST else "see the file"


def _aliases() -> dict[str, Hint]:
    """Kind of value -> its annotation: those with a text below them."""
    return {name: getattr(types, name) for name in _texts(types)}


@cache
def _texts(owner: Any) -> Mapping[str, str]:
    """Name -> the text below its line, of a class or a module."""
    tree = ast.parse(inspect.getsource(owner))
    lines = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else tree.body
    return {
        _name(line): " ".join(str(below.value.value).split())
        for line, below in pairwise(lines)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and _name(line)
    }


def _name(line: ast.stmt) -> str:
    """Of what a line gives a value or a type, "" for any other line."""
    target = line.target if isinstance(line, ast.AnnAssign) else getattr(line, "targets", [None])[0]
    return target.id if isinstance(target, ast.Name) else ""


if __name__ == "__main__":
    print(page(), end="")
