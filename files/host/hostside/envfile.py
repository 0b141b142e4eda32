"""`.env.docker`: values as `docker compose --env-file` reads them, written and read back. Standard library."""

from __future__ import annotations

import re

_ESCAPES = {"\\": "\\\\", '"': '\\"', "$": "\\$", "\n": "\\n", "\r": "\\r"}
_MEANT = {"n": "\n", "r": "\r"}
_QUOTED = re.compile(r'"((?:[^"\\$\n\r]|\\["\\$nr])*)"')
# compose also reads `export NAME=`, and spaces around NAME: by those, too, a line takes the place of ours.
_LINE = re.compile(r"\s*(?:export\s+)?(?P<name>[A-Z0-9_]+)\s*=(?P<text>.*)", re.DOTALL)


def quote(value: str) -> str:
    """A value as compose reads it back byte for byte (any text but NUL)."""
    return '"' + "".join(_ESCAPES.get(letter, letter) for letter in value) + '"'


def unquote(text: str) -> str:
    """The inverse of quote(); text that it did not write stays as it is."""
    quoted = _QUOTED.fullmatch(text)
    return re.sub(r"\\(.)", lambda found: _MEANT.get(found[1], found[1]), quoted[1]) if quoted else text


def variables(content: str) -> dict[str, str]:
    """The variables of a `.env.docker`, name -> value; the last line of a name wins."""
    found = {}
    for line in content.split("\n"):  # not splitlines: a value may hold U+2028 and the like as they are
        if parts := _LINE.fullmatch(line):
            name, text = parts["name"], parts["text"]
            found[name] = unquote(text) if line.startswith(f"{name}=") else text
    return found
