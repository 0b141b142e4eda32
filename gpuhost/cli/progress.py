"""What a person sees while an apply works: a line a stage, with what it does now.

On a terminal the line of the stage at work is drawn anew; elsewhere (a file, a pipe) nothing is ever drawn over.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TextIO

from gpuhost.run.log import line_as_text

DRAWN_EVERY_S = 0.5
SAID_EVERY_S = 30.0  # what a long step says, where nothing is drawn over

_OPERATION = re.compile(r"--> Starting operation: (\w+) \| (.*?)\s*$")
_DOING = re.compile(r"\s+\[(\S+)\] doing: \w+: (.*)$")
_DONE = re.compile(r"\s+\[(\S+)\] (Success|Error)")
_SAID = re.compile(r"\s+\[(\S+)\] (?!No changes|error:|hint:)(.*\S)")

Kind = Literal["operation", "doing", "done", "said"]
_PATTERNS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("operation", _OPERATION),
    ("doing", _DOING),
    ("done", _DONE),
    ("said", _SAID),
)


@dataclass(frozen=True)
class Printed:
    """What one line of pyinfra's is: a stage's `operation` that begins, a change that a host is `doing`, the end of an
    operation that did something (`done`), or what a host has `said` meanwhile."""

    kind: Kind
    stage_or_host: str
    text: str


def read(line: str) -> Printed | None:
    """None for a line that says nothing to a person who watches."""
    plain = line_as_text(line)
    for kind, pattern in _PATTERNS:
        if match := pattern.match(plain):
            return Printed(kind, match[1], match[2].strip())
    return None


def duration(seconds: float) -> str:
    """`38 s`, `4 min 5 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Progress:
    """Shows the lines that it is told, while it is entered. `columns`: of a terminal, None when `out` is none."""

    def __init__(self, out: TextIO, columns: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._columns, self._clock = out, columns, clock
        self._stage, self._did_something, self._now = "", False, ""
        self._began_s = self._said_s = clock()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._drawing = threading.Thread(target=self._draw_on, daemon=True)

    def __enter__(self) -> Progress:
        if self._columns is not None:
            self._drawing.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._drawing.is_alive():
            self._drawing.join()
        with self._lock:
            self._end_stage()

    def line(self, line: str) -> None:
        """One line of pyinfra's."""
        printed = read(line)
        if printed is None:
            return
        with self._lock:
            if printed.kind == "operation":
                if printed.stage_or_host != self._stage:
                    self._end_stage()
                    self._stage, self._did_something = printed.stage_or_host, False
                    self._began_s = self._clock()
                self._now = printed.text
            elif printed.kind == "doing":
                self._now = f"[{printed.stage_or_host}] {printed.text}"
                self._write_plain(f"[{printed.stage_or_host}] doing: {self._stage}: {printed.text}")
            elif printed.kind == "done":
                self._did_something = True
            else:
                self._now = f"[{printed.stage_or_host}] {printed.text}"
                if self._clock() - self._said_s >= SAID_EVERY_S:
                    self._write_plain(f"    {self._now}")
            self._draw()

    def _write_plain(self, text: str) -> None:
        """Where nothing is drawn over."""
        if self._columns is None:
            self._said_s = self._clock()
            self._out.write(f"{text}\n")
            self._out.flush()

    def _end_stage(self) -> None:
        """The line that stays of a stage that did something."""
        if self._columns is not None:
            self._out.write("\r\x1b[K")
        if self._did_something:
            self._out.write(f"{self._stage:10} {duration(self._clock() - self._began_s):>8}\n")
        self._stage, self._did_something, self._now = "", False, ""
        self._out.flush()

    def _draw_on(self) -> None:
        while not self._ended.wait(DRAWN_EVERY_S):
            with self._lock:
                self._draw()

    def _draw(self) -> None:
        if self._columns is None or not self._stage:
            return
        spent = duration(self._clock() - self._began_s)
        self._out.write("\r\x1b[K" + f"{self._stage:10} {spent:>8}  {self._now}"[: self._columns - 1])
        self._out.flush()
