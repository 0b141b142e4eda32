"""Templates of secret files: text that names secrets as `{NAME}`. Standard library."""

from __future__ import annotations

import re
from collections.abc import Mapping

_PLACEHOLDER = re.compile(r"\{([A-Z0-9_]+)\}")


def names(template: str) -> list[str]:
    """The names in a template, each once, in order."""
    return list(dict.fromkeys(_PLACEHOLDER.findall(template)))


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template with its values; a name that has none stays."""
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), template)


def values(content: str, template: str) -> dict[str, str] | None:
    """The inverse: the values, name -> value, with which the template becomes `content`; None when none do.

    Where several do (`{USER}:{PASSWORD}` and two colons), the earlier value is the shorter one.
    """
    pattern = ""
    groups: dict[str, str] = {}
    for index, part in enumerate(_PLACEHOLDER.split(template)):
        if index % 2 == 0:
            pattern += re.escape(part)
        elif part in groups:
            pattern += f"(?P={groups[part]})"
        else:
            groups[part] = f"g{index}"
            pattern += f"(?P<g{index}>.*?)"
    fit = re.fullmatch(pattern, content, re.DOTALL)
    return {name: fit[group] for name, group in groups.items()} if fit else None
