"""How a mistake in the data reads: one sentence that names the file and the field, and a hint. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails, PydanticCustomError

from gpuhost.errors import Problem


def refuse(what: str, hint: str) -> NoReturn:
    """Refuse a value inside a validator with a sentence and a hint."""
    raise PydanticCustomError("gpuhost", "{what}", {"what": what, "hint": hint})


def suggest(name: str, known: list[str], kind: str) -> str:
    """A hint: the nearest known name, else the list of what there is."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean `{near[0]}`?" if near else f"there is: {', '.join(sorted(known)) or f'no {kind} yet'}"


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
    "string_too_short": "it must not be empty",
}

# What the patterns above ask for, in words.
_FORMS: dict[str, str] = {
    r"^[a-z0-9][a-z0-9_.-]{0,62}$": "small letters, digits, `-`, `_` and `.`",
    r"^[a-z][a-z0-9_.-]{0,62}$": "a small letter, then small letters, digits, `-`, `_` and `.`",
    r"^[a-z0-9][a-z0-9_-]{0,62}$": "small letters, digits, `-` and `_`",
    r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$": "a file name of letters, digits, `_`, `-` and `.`",
    r"^[A-Z][A-Z0-9_]*$": "capitals, digits and `_`, as in `HF_TOKEN`",
    r"^[1-9][0-9]*[kmg]b?$": "a whole number and `k`, `m` or `g`, as in `28g`",
    r"^[0-9a-f]{64}$": "64 hex digits in small letters",
    r"^[0-9A-F]{40}$": "40 hex digits in capitals, without spaces",
    r"^[\w.-]+/[\w.-]+$": "`owner/name`",
    r"^\d+\.\d+\.\d+-\d+$": "a full package version, as in `1.20.0-1`",
    r"^/": "a path that begins with `/`",
}


def explain(detail: ErrorDetails, file_of: Callable[[str], str], root: type[BaseModel]) -> Problem:
    """One fault that pydantic found in data of type `root`, for the person who wrote it."""
    # pydantic adds the chosen member of a union, and that a key is meant, to the path: no fields of the user's.
    path = [str(part) for part in detail["loc"] if str(part) not in ("BuildImage", "PullImage", "[key]")]
    context = detail.get("ctx", {})
    if detail["type"] == "gpuhost":
        key = path[0] if path else str(context["what"]).lstrip("`").split("`")[0].split(".")[0]
        where = f"`{'.'.join(path)}`: " if path else ""
        return Problem(f"{file_of(key)}: {where}{detail['msg']}", str(context["hint"]))
    field = ".".join(path)
    if detail["type"] == "extra_forbidden":
        return Problem(
            f"{file_of(path[0])}: `{field}` is not a field that gpuhost knows",
            suggest(path[-1], _fields(detail["loc"], root), "field"),
        )
    if detail["type"] == "string_pattern_mismatch":
        what = f"{file_of(path[0])}: `{field}`: `{_short(detail['input'])}` is not of the right form"
        return Problem(what, f"write {_FORMS.get(context['pattern'], context['pattern'])}")
    got = "" if detail["type"] in ("missing", "too_short", "string_too_short") else f", not `{_short(detail['input'])}`"
    what = f"{file_of(path[0])}: `{field}`: {detail['msg'][0].lower()}{detail['msg'][1:]}{got}"
    hint = _HINTS.get(detail["type"], "see group_data/all.py for the form of this field")
    return Problem(what, hint.format(**context))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _fields(location: Sequence[int | str], root: type[BaseModel]) -> list[str]:
    """The field names of the model that holds the last part of `location`, pydantic's path to an unknown field."""
    kind: Any = root
    for part in location[:-1]:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[str(part)].annotation
        elif get_origin(kind) in (list, dict):
            kind = get_args(kind)[-1]
        else:
            kind = next(member for member in map(_plain, get_args(kind)) if member.__name__ == part)
        kind = _plain(kind)
    return list(kind.model_fields)


def _plain(kind: Any) -> Any:
    """A type without its annotations and its `| None`."""
    while get_origin(kind) is Annotated or type(None) in get_args(kind):
        kind = get_args(kind)[0]
    return kind
