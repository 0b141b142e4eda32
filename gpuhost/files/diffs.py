"""What changes in a text file, line by line, for people. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence

CONTEXT = 2  # lines that stay, around those that change
LINES_MAX = 200  # of one file's; the rest is counted
COLUMNS_MAX = 200
COMPARED_CHARS_MAX = 200_000  # larger texts take difflib minutes

Mask = Callable[[str], str]


def unified(before: str | None, after: str, mask: Mask, stamp: str = "") -> tuple[str, ...]:
    """The lines of a unified diff, without the names of the files; `before` None: there is no file yet.

    `mask` takes secrets out of a text. Both texts are masked before they are compared, so that no line, cut or whole,
    holds one. `stamp`: the key of lines that differ whenever anything of a service does: their values are not shown.
    """
    old, new = "" if before is None else before, after
    if any("\0" in text or not _is_text(text) for text in (old, new)):
        return ("(not a text)",)
    if len(old) + len(new) > COMPARED_CHARS_MAX:
        return (f"(too large to compare by line: {len(old)} characters before, {len(new)} after)",)
    both = mask(old).splitlines(), mask(new).splitlines()
    lines = _compared(*(_without(stamp, each) for each in both) if stamp else both)
    if not lines and stamp and _compared(*both):
        return (f"(only the label `{stamp}`: its service's own line says what in it)",)
    if not lines:
        return ("(only what is masked here, or the end of the last line)",)
    return tuple(_bounded(lines))


def _compared(old: Sequence[str], new: Sequence[str]) -> list[str]:
    return list(difflib.unified_diff(old, new, n=CONTEXT, lineterm=""))[2:]


def _without(stamp: str, lines: Sequence[str]) -> list[str]:
    return [re.sub(rf"^(\s*{re.escape(stamp)}: ).*", r"\1...", line) for line in lines]


def _is_text(text: str) -> bool:
    return all(not "\ud800" <= letter <= "\udfff" for letter in text)


def _bounded(lines: list[str]) -> Iterator[str]:
    for line in lines[:LINES_MAX]:
        yield line if len(line) <= COLUMNS_MAX else f"{line[:COLUMNS_MAX]}..."
    if len(lines) > LINES_MAX:
        yield f"(and {len(lines) - LINES_MAX} lines more)"
