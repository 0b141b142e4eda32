"""How a mistake in the data reads: one sentence that names the file and the field, and a hint. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NoReturn, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails, PydanticCustomError

from gpuhost.errors import Problem, nearest, suggest


def refuse(what: str, hint: str) -> NoReturn:
    """Refuse a value inside a validator with a sentence and a hint."""
    raise PydanticCustomError("gpuhost", "{what}", {"what": what, "hint": hint})


# How pydantic's kinds of fault read to a person who writes group_data.
_HINTS: dict[str, str] = {
    "missing": "add this field",
    "greater_than_equal": "the least is {ge}",
    "less_than_equal": "the most is {le}",
    "greater_than": "it must be above {gt}",
    "literal_error": "it is one of {expected}",
    "int_type": "write a whole number without quotes",
    "float_type": "write a number without quotes",
    "string_type": "write a text in quotes",
    "bool_type": "write `True` or `False`",
    "list_type": "write a list: `[...]`",
    "dict_type": "write a dict: `{{...}}`",
    "model_type": "write a dict: `{{...}}`",
    "too_short": "give at least {min_length}",
}

# What the patterns above ask for, in words.
_FORMS: dict[str, str] = {
    r"^[a-z0-9][a-z0-9_.-]{0,62}$": "small letters, digits, `-`, `_` and `.`",
    r"^[a-z][a-z0-9_.-]{0,62}$": "a small letter, then small letters, digits, `-`, `_` and `.`",
    r"^[a-z0-9][a-z0-9_-]{0,62}$": "small letters, digits, `-` and `_`",
    r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$": "a file name of letters, digits, `_`, `-` and `.`",
    r"^[a-z_][a-z0-9_-]{0,31}$": "at most 32 small letters, digits, `-` and `_`",
    r"^[A-Z][A-Z0-9_]*$": "capitals, digits and `_`, as in `HF_TOKEN`",
    r"^[1-9][0-9]*[kmg]b?$": "a whole number and `k`, `m` or `g`, as in `28g`",
    r"^[0-9a-f]{64}$": "64 hex digits in small letters",
    r"^[0-9A-F]{40}$": "40 hex digits in capitals, without spaces",
    r"^[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*$": "`owner/name`",
    r"^[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w .()+-]*$": "`folder/name`",
    r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,200}$": "a commit, a branch or a tag",
    r"^\d+\.\d+\.\d+-\d+$": "a full package version, as in `1.20.0-1`",
    r"^/": "a path that begins with `/`",
}


def explain(
    details: Sequence[ErrorDetails], data: Mapping[str, Any], file_of: Callable[[str], str], root: type[BaseModel]
) -> list[Problem]:
    """What pydantic found in `data` of type `root`, each mistake once, for the person who wrote it.

    `file_of`: the file that gave a dotted field, or that last named its entry when nobody gave it. A field that is
    unknown comes first, and the field that was probably meant is not said to be missing.
    """
    unknown = [detail for detail in details if detail["type"] == "extra_forbidden"]
    meant = {(detail["loc"][:-1], nearest(str(detail["loc"][-1]), _fields(detail["loc"], root))) for detail in unknown}
    missing = [detail for detail in details if detail["type"] == "missing"]
    absent: dict[tuple[int | str, ...], list[str]] = {}
    for *entry, name in (detail["loc"] for detail in missing):
        if (tuple(entry), name) not in meant:
            absent.setdefault(tuple(entry), []).append(str(name))
    return [
        *(_unknown(detail, file_of, root) for detail in unknown),
        *(_required(name, file_of) for name in absent.pop((), [])),
        *(_absent(_path(entry), names, data, file_of) for entry, names in absent.items()),
        *(_fault(detail, file_of) for detail in details if detail not in unknown and detail not in missing),
    ]


def _path(location: Sequence[int | str]) -> list[str]:
    """The keys that the user wrote: pydantic adds the chosen member of a union, and that a key is meant."""
    return [str(part) for part in location if str(part) not in ("BuildImage", "PullImage", "[key]")]


def _unknown(detail: ErrorDetails, file_of: Callable[[str], str], root: type[BaseModel]) -> Problem:
    field, name = ".".join(_path(detail["loc"])), str(detail["loc"][-1])
    kind = _type_at(detail["loc"][:-1], root)
    others = [member for member in map(_plain, get_args(_type_at(detail["loc"][:-2], root))) if member is not kind]
    if any(name in getattr(other, "model_fields", {}) for other in others):  # of another member of a union
        own = next(field for field, about in kind.model_fields.items() if about.is_required())
        what = f"{file_of(field)}: `{field}` does not go with `{own}`"
        return Problem(what, f'take one of them away, as in `"{name}": None`')
    hint = suggest(name, list(kind.model_fields), "field")
    return Problem(f"{file_of(field)}: `{field}` is not a field that gpuhost knows", hint)


def _required(field: str, file_of: Callable[[str], str]) -> Problem:
    return Problem(f"{file_of(field)}: `{field}`: field required", _HINTS["missing"])


def _absent(
    path: Sequence[str], names: Sequence[str], data: Mapping[str, Any], file_of: Callable[[str], str]
) -> Problem:
    """Fields that an entry lacks; when they are several, its name may be another one's, misspelt."""
    entry = ".".join(path)
    if len(names) == 1:
        return _required(f"{entry}.{names[0]}", file_of)
    siblings: Any = data
    for key in path[:-1]:
        siblings = siblings[int(key) if isinstance(siblings, list) else key]
    near = isinstance(siblings, Mapping) and nearest(path[-1], [name for name in siblings if name != path[-1]])
    what = f"{file_of(entry)}: `{entry}` lacks {', '.join(f'`{name}`' for name in names)}"
    return Problem(what, f"did you mean `{near}`? A new entry needs these fields" if near else "add these fields")


def _fault(detail: ErrorDetails, file_of: Callable[[str], str]) -> Problem:
    """A value that cannot be, or does not fit the others."""
    path, context = _path(detail["loc"]), detail.get("ctx", {})
    field = ".".join(path)
    if detail["type"] == "gpuhost":
        named = field or str(context["what"]).lstrip("`").split("`")[0]
        where = f"`{field}`: " if path else ""
        return Problem(f"{file_of(named)}: {where}{detail['msg']}", str(context["hint"]))
    if detail["type"] == "string_pattern_mismatch":
        what = f"{file_of(field)}: `{field}`: `{_short(detail['input'])}` is not of the right form"
        return Problem(what, f"write {_FORMS.get(context['pattern'], context['pattern'])}")
    got = "" if detail["type"] == "too_short" else f", not `{_short(detail['input'])}`"
    what = f"{file_of(field)}: `{field}`: {detail['msg'][0].lower()}{detail['msg'][1:]}{got}"
    hint = _HINTS.get(detail["type"], "see group_data/all.py for the form of this field")
    return Problem(what, hint.format(**context))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _fields(location: Sequence[int | str], root: type[BaseModel]) -> list[str]:
    """The field names of the model that holds the last part of `location`, pydantic's path to an unknown field."""
    return list(_type_at(location[:-1], root).model_fields)


def _type_at(location: Sequence[int | str], root: type[BaseModel]) -> Any:
    """The type of what stands at pydantic's path: a model, a list, a dict, a union."""
    kind: Any = root
    for part in location:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[str(part)].annotation
        elif get_origin(kind) in (list, dict):
            kind = get_args(kind)[-1]
        else:
            kind = next(member for member in map(_plain, get_args(kind)) if member.__name__ == part)
        kind = _plain(kind)
    return kind


def _plain(kind: Any) -> Any:
    """A type without its annotations and its `| None`."""
    while get_origin(kind) is Annotated or type(None) in get_args(kind):
        kind = get_args(kind)[0]
    return kind
