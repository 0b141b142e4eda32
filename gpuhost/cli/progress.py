"""What a person sees while a run works: of an apply a line a stage, of a run that only looks one line, with what it
does now.

On a terminal they are drawn anew, by rich; elsewhere (a file, a pipe, a terminal that cannot) nothing is ever drawn
over.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TextIO, TypeVar

from gpuhost.run.log import line_as_text

if TYPE_CHECKING:
    from rich.console import OverflowMethod
    from rich.live import Live

DRAWN_EVERY_S = 0.25
KEPT_FROM_S = 1.0  # the line of a stage that took so long stays, whatever it did
SAID_EVERY_S = 10.0  # so long nothing is said, where nothing is drawn over

_OPERATION = re.compile(r"--> Starting operation: (\w+) \| (.*?)\s*$")
_DOING = re.compile(r"\s+\[(\S+)\] doing: \w+: (.*)$")
_DONE = re.compile(r"\s+\[(\S+)\] (Success|Error)")
# What a command of the host prints comes without an indent; what differs in a change has a further one.
_SAID = re.compile(r"\s*\[(\S+)\] (?!No changes|error:|hint:|    [-+~@ ])(?:will: )?(.*\S)")

_BEFORE = "prepare"  # what a run does before its first stage
_PLAIN = ("dumb", "unknown")  # terminals on which rich draws nothing, such as that of Emacs' shell

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


@dataclass
class _Stage:
    """One of a run. `spent_s`: what it took before it was at work this time; `did_something`: a host changed by it."""

    name: str
    spent_s: float = 0.0
    did_something: bool = False
    now: str = ""

    @property
    def stays(self) -> bool:
        """Whether its line is kept: of one that found nothing to do, and at once, none is."""
        return self.did_something or self.spent_s >= KEPT_FROM_S

    def line(self, spent_s: float) -> str:
        """`engine  12 s  [gpu1] Unpacking docker-ce`."""
        return f"{self.name:10} {duration(spent_s):>8}  {self.now}".rstrip()


class Progress:
    """Shows the lines that it is told, while it is entered. `terminal`: what is at work is drawn anew on `out`;
    `columns`: of it, None: what it says itself; `looks`: what a run does that only looks, such as `plan`: then nothing
    stays on the terminal."""

    def __init__(
        self,
        out: TextIO,
        terminal: bool,
        looks: str = "",
        clock: Callable[[], float] = time.monotonic,
        columns: int | None = None,
    ) -> None:
        self._out, self._terminal, self._columns, self._clock = out, terminal, columns, clock
        self._looks = looks
        self._at_work, self._did_something = _Stage(looks or _BEFORE), False
        self._stages = {self._at_work.name: self._at_work}  # a run may come back to one
        self._began_s = self._said_s = clock()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._live: Live | None = None
        self._ticking = threading.Thread(target=self._tick_on, daemon=True)

    def __enter__(self) -> Progress:
        self._ticking.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        try:
            self._ticking.join()
        finally:  # also at one more Ctrl-C: what is drawn is wiped, and stderr is itself again
            if self._live:
                self._live.stop()
        with self._lock:
            self._end_stage()
        if self._terminal and not self._looks:
            self._out.writelines(f"{line}\n" for line in self._kept())
            self._out.flush()

    def line(self, line: str) -> None:
        """One line of pyinfra's."""
        printed = read(line)
        if printed is None:
            return
        with self._lock:
            if printed.kind == "operation":
                if printed.stage_or_host != self._at_work.name and not self._looks:
                    self._end_stage()
                    self._at_work = self._stages.setdefault(printed.stage_or_host, _Stage(printed.stage_or_host))
                self._at_work.now = printed.text
            elif printed.kind == "done":
                self._did_something = not self._looks
            else:
                self._at_work.now = f"[{printed.stage_or_host}] {printed.text}"
                if printed.kind == "doing":
                    self._write_plain(f"[{printed.stage_or_host}] doing: {self._at_work.name}: {printed.text}")
            self._say_now_and_then()

    def tick(self) -> None:
        """Some time has passed."""
        with self._lock:
            self._say_now_and_then()
            drawn = [*self._lines()] if self._terminal else []
        if drawn:  # without the lock: a signal's handler may write while it is held, and what is drawn then waits
            self._draw(drawn)

    def _tick_on(self) -> None:
        while not self._ended.wait(DRAWN_EVERY_S):
            self.tick()

    def _draw(self, lines: Sequence[str]) -> None:
        # Imported here, beside the run that has begun: it takes a moment.
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        if self._live is None:
            console = Console(file=self._out, force_terminal=True, color_system=None, width=self._columns)
            # What is written to stderr meanwhile comes to stand above.
            self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
            self._live.start()
            console.show_cursor()  # whoever is killed cannot bring it back
        console = self._live.console
        # The last lines of what is too high: rich would cut them off. One is left to the cursor, when all is wiped.
        last = lines[-max(1, console.height - 1) :]
        # Python writes what an encoding does not have as an escape, which is longer.
        cut: OverflowMethod = "ellipsis" if console.encoding.startswith("utf") else "crop"
        self._live.update(Text("\n".join(last), no_wrap=True, overflow=cut), refresh=True)

    def _lines(self) -> Iterator[str]:
        """The stages that are over, and what is at work."""
        yield from self._kept()
        yield self._at_work.line(self._spent_s())

    def _spent_s(self) -> float:
        return self._at_work.spent_s + self._clock() - self._began_s

    def _kept(self) -> Iterator[str]:
        for stage in self._stages.values():
            if stage is not self._at_work and stage.stays:
                yield stage.line(stage.spent_s)

    def _say_now_and_then(self) -> None:
        """Where nothing is drawn over, that it is still at work."""
        if not self._terminal and self._clock() - self._said_s >= SAID_EVERY_S:
            line = f"    {self._at_work.name}, {duration(self._spent_s())}"
            self._write_plain(f"{line}: {self._at_work.now}" if self._at_work.now else line)

    def _end_stage(self) -> None:
        """It is at work no more: what it took counts, and where nothing is drawn over it is said."""
        ended, did_something, took_s = self._at_work, self._did_something, self._clock() - self._began_s
        ended.spent_s += took_s
        ended.did_something |= did_something
        ended.now = ""
        self._at_work, self._did_something, self._began_s = _Stage(""), False, self._clock()
        if not self._looks and (did_something or took_s >= KEPT_FROM_S):
            self._write_plain(ended.line(ended.spent_s))

    def _write_plain(self, text: str) -> None:
        if not self._terminal:
            self._said_s = self._clock()
            self._out.write(f"{text}\n")
            self._out.flush()


def shown(looks: str = "") -> Progress:
    """On stderr: stdout is data."""
    return Progress(sys.stderr, sys.stderr.isatty() and os.environ.get("TERM") not in _PLAIN, looks)


def looked(what: str, run: Callable[[Callable[[str], None]], Looked], silent: bool = False) -> Looked:
    """A run that only looks, and what it does meanwhile unless `silent`. `run`: is told who wants its lines."""
    if silent:
        return run(lambda line: None)
    with shown(what) as progress:
        return run(progress.line)
