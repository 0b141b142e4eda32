"""What a terminal showed, as text and as a picture."""

from __future__ import annotations

import re

import pytest

from tests.rehearsal.instruments.picture import COLUMNS, NO_BREAK, plain, settled, svg
from tests.rehearsal.pictures import Step


def test_what_was_wiped_is_gone() -> None:
    drawn_over = "\r\x1b[Kengine 0 s\r\x1b[Kengine 1 s  folders\r\x1b[Kengine 2 s\r\n"
    shown = f"Apply 2 changes? [y/N] y\r\n{drawn_over}\x1b[32mdone\x1b[0m\r\n"
    assert settled(shown) == ["Apply 2 changes? [y/N] y", "engine 2 s", "\x1b[32mdone\x1b[0m"]
    assert [*map(plain, settled(shown))] == ["Apply 2 changes? [y/N] y", "engine 2 s", "done"]


@pytest.mark.parametrize("line", ["\x1b[2Jgone", "\x1b[31;1mbold", "back\rward", "\x1b]0;title\x07", "\x1b[1A"])
def test_what_a_picture_cannot_show_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"terminal|sequence"):
        plain(line)
    with pytest.raises(ValueError, match=r"terminal|sequence"):
        svg([line])


def test_a_picture() -> None:
    drawn = svg(["$ a <b> & c", "", "\x1b[33m  ~ changed\x1b[0m"])
    assert "$ a &lt;b&gt; &amp; c".replace(" ", NO_BREAK) in drawn
    assert f'fill="#e0b04c">{NO_BREAK}{NO_BREAK}~{NO_BREAK}changed<' in drawn
    rows = [float(y) for y in re.findall(r'<text y="([\d.]+)"', drawn)]
    assert len(rows) == 2 and rows[1] - rows[0] == 36  # an empty line between them


def test_a_line_goes_on_below_where_the_terminal_ends() -> None:
    drawn = svg(["x" * COLUMNS + "\x1b[31m" + "y" * (COLUMNS + 1) + "\x1b[0m"])
    assert re.findall(r">([xy]+)<", drawn) == ["x" * COLUMNS, "y" * COLUMNS, "y"]
    assert drawn.count("<text ") == 3 and drawn.count('fill="#f47067"') == 2


def test_a_step_from_a_line_on() -> None:
    step = Step("apply", "gpuhost apply", ("y",), 0, ("gpu1:", "Plan: 1 to add", "done"))
    assert step.lines() == ["$ gpuhost apply", "gpu1:", "Plan: 1 to add", "done"]
    assert step.lines("Plan: ") == ["$ gpuhost apply", "...", "Plan: 1 to add", "done"]
