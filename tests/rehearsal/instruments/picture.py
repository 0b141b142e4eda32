"""What a terminal showed: the lines that stay, and a picture of them that needs nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

COLUMNS = 80
# Of a character and of a line, in the SVG's units.
_WIDE, _HIGH, _MARGIN = 8.4, 18, 14
_FONT = "ui-monospace, Menlo, Consolas, monospace"
NO_BREAK = "\u00a0"
_COLOURS = {"31": "#f47067", "32": "#8ddb8c", "33": "#e0b04c"}
_SEQUENCE = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])")

Piece = tuple[str, str]  # the number of a colour, "" for the usual one, and text


def settled(shown: str) -> list[str]:
    """The lines that stay of what a program wrote to its terminal, with their colours: some were drawn over, or wiped.
    Understood is what gpuhost, rich and a prompt write: what comes at a line's beginning stands in the place of all of
    it. Raises ValueError for a line that is wiped from its middle on."""
    lines, at, begun = [""], 0, True  # begun: the line's beginning, where what is written comes in its place
    for part in re.split(r"(\r\n|\n|\r|\x1b\[\?25[hl]|\x1b\[2?K|\x1b\[\d*A)", shown):
        if part in ("\r\n", "\n"):
            at, begun = at + 1, True
            lines += [""] * (at + 1 - len(lines))
        elif part == "\r":
            begun = True
        elif part in ("\x1b[K", "\x1b[2K"):
            if not begun:
                raise ValueError(f"a line is wiped from its middle on: {lines[at]!r}")
            lines[at] = ""
        elif part.startswith("\x1b[") and part.endswith("A"):
            at -= int(part[2:-1] or 1)
        elif part and not part.startswith("\x1b[?25"):
            lines[at] = part if begun else lines[at] + part
            begun = False
    while len(lines) > 1 and not lines[-1]:
        lines.pop()
    return lines


def plain(line: str) -> str:
    """A line without its colours. Raises ValueError when it does more than colour: it would be shown wrongly."""
    return "".join(text for _, text in _pieces(line))


def _pieces(line: str) -> list[Piece]:
    pieces, colour, end = [], "", 0
    for found in _SEQUENCE.finditer(line):
        pieces.append((colour, line[end : found.start()]))
        colour, end = _colour(found), found.end()
    pieces.append((colour, line[end:]))
    if odd := [text for _, text in pieces if not text.isprintable()]:
        raise ValueError(f"a terminal would do something else with {odd}")
    return [(colour, text) for colour, text in pieces if text]


def _rows(line: str) -> list[list[Piece]]:
    """A line as the terminal has it: what is longer goes on below."""
    rows: list[list[Piece]] = [[]]
    room = COLUMNS
    for colour, text in _pieces(line):
        while text:
            if not room:
                rows.append([])
                room = COLUMNS
            rows[-1].append((colour, text[:room]))
            text, room = text[room:], room - len(text[:room])
    return rows


def _colour(found: re.Match[str]) -> str:
    if found[2] != "m" or found[1] not in ("", "0", *_COLOURS):
        raise ValueError(f"unknown sequence: {found[0]!r}")
    return found[1] if found[1] in _COLOURS else ""


def svg(lines: Sequence[str]) -> str:
    """A window with these lines."""
    rows = [row for line in lines for row in _rows(line)]
    width, height = round(COLUMNS * _WIDE + 2 * _MARGIN), len(rows) * _HIGH + 2 * _MARGIN
    drawn = "\n".join(_drawn(row, _MARGIN + (number + 0.75) * _HIGH) for number, row in enumerate(rows) if row)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        f'<rect width="{width}" height="{height}" rx="8" fill="#1f2428"/>\n'
        f'<g font-family="{_FONT}" font-size="14" fill="#d5dbe1">\n'
        f"{drawn}\n</g>\n</svg>\n"
    )


def _drawn(row: Sequence[Piece], y: float) -> str:
    """Each piece is as wide as its characters are, whichever font the reader has; no space is taken for two."""
    parts, column = [], 0
    for colour, piece in row:
        fill = f' fill="{_COLOURS[colour]}"' if colour else ""
        place = f'x="{_MARGIN + column * _WIDE:g}" textLength="{len(piece) * _WIDE:g}"'
        parts.append(
            f'<tspan {place} lengthAdjust="spacingAndGlyphs"{fill}>{escape(piece).replace(" ", NO_BREAK)}</tspan>'
        )
        column += len(piece)
    return f'<text y="{y:g}">{"".join(parts)}</text>'
