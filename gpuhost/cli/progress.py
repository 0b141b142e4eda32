"""What a person sees while a run works: of an apply a line a stage, of a run that only looks one line, with what it
does now.

On a terminal the line of what is at work is drawn anew; elsewhere (a file, a pipe) nothing is ever drawn over.
"""

from __future__ import annotations

import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TextIO, TypeVar

from gpuhost.run.log import line_as_text

DRAWN_EVERY_S = 0.5
SAID_EVERY_S = 10.0  # so long nothing is said, where nothing is drawn over

_OPERATION = re.compile(r"--> Starting operation: (\w+) \| (.*?)\s*$")
_DOING = re.compile(r"\s+\[(\S+)\] doing: \w+: (.*)$")
_DONE = re.compile(r"\s+\[(\S+)\] (Success|Error)")
# What a command of the host prints comes without an indent; what differs in a change has a further one.
_SAID = re.compile(r"\s*\[(\S+)\] (?!No changes|error:|hint:|    [-+~@ ])(?:will: )?(.*\S)")

_BEFORE = "prepare"  # what a run does before its first stage

Looked = TypeVar("Looked")
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
    """Shows the lines that it is told, while it is entered. `columns`: of a terminal, None when `out` is none; `looks`:
    what a run does that only looks, such as `plan`: then nothing stays on the terminal."""

    def __init__(
        self, out: TextIO, columns: int | None, looks: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._out, self._columns, self._clock = out, columns, clock
        self._looks, self._stage, self._did_something, self._now = looks, looks or _BEFORE, False, ""
        self._began_s = self._said_s = clock()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ticking = threading.Thread(target=self._tick_on, daemon=True)

    def __enter__(self) -> Progress:
        self._ticking.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._ticking.join()
        with self._lock:
            self._end_stage()

    def line(self, line: str) -> None:
        """One line of pyinfra's."""
        printed = read(line)
        if printed is None:
            return
        with self._lock:
            if printed.kind == "operation":
                if printed.stage_or_host != self._stage and not self._looks:
                    self._end_stage()
                    self._stage, self._began_s = printed.stage_or_host, self._clock()
                self._now = printed.text
            elif printed.kind == "done":
                self._did_something = not self._looks
            else:
                self._now = f"[{printed.stage_or_host}] {printed.text}"
                if printed.kind == "doing":
                    self._write_plain(f"[{printed.stage_or_host}] doing: {self._stage}: {printed.text}")
            self._show()

    def tick(self) -> None:
        """Some time has passed."""
        with self._lock:
            self._show()

    def _tick_on(self) -> None:
        while not self._ended.wait(DRAWN_EVERY_S):
            self.tick()

    def _show(self) -> None:
        if not self._stage:
            return
        spent = duration(self._clock() - self._began_s)
        if self._columns is not None:
            self._out.write("\r\x1b[K" + f"{self._stage:10} {spent:>8}  {self._now}"[: self._columns - 1])
            self._out.flush()
        elif self._clock() - self._said_s >= SAID_EVERY_S:
            self._write_plain(f"    {self._stage}, {spent}" + (f": {self._now}" if self._now else ""))

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
        self._stage, self._did_something, self._now = self._looks, False, ""
        self._out.flush()


def shown(looks: str = "") -> Progress:
    """On stderr: stdout is data."""
    return Progress(sys.stderr, shutil.get_terminal_size().columns if sys.stderr.isatty() else None, looks)


def looked(what: str, run: Callable[[Callable[[str], None]], Looked], silent: bool = False) -> Looked:
    """A run that only looks, and what it does meanwhile unless `silent`. `run`: is told who wants its lines."""
    if silent:
        return run(lambda line: None)
    with shown(what) as progress:
        return run(progress.line)
