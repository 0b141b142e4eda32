"""The log of a service: what is asked, and its lines on their way to the person. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from gpuhost.run.log import line_as_text

LINE_CHARS_SHOWN = 4000
MARK = "log| "  # before each line of a log, in what a run prints
_LINE = re.compile(r"\s*\[(.+?)\]\s+log\| (.*)$")


@dataclass(frozen=True)
class Asked:
    """`tail`: how many lines of the past; `follow`: those that come as well, until somebody ends it."""

    service: str
    tail: int
    follow: bool

    def as_text(self) -> str:
        """As one value of pyinfra's `--data`."""
        return f"{self.service}:{self.tail}:{'follow' if self.follow else 'end'}"

    @classmethod
    def of(cls, text: str) -> Asked:
        """The inverse."""
        service, tail, follow = text.split(":")
        return cls(service, int(tail), follow == "follow")


class LogLine(NamedTuple):
    """One line of a service's log."""

    host: str
    text: str


def shown(masked: Callable[[str], str], line: str) -> str | None:
    """What a run prints of a line of hostside.logs; None for a sign of life. `masked` takes secrets out of a text."""
    try:
        text = json.loads(line).get("line")
    except (ValueError, AttributeError, RecursionError):
        return masked(line)
    return None if text is None else f"{MARK}{masked(str(text))[:LINE_CHARS_SHOWN]}"


def read(line: str) -> LogLine | None:
    """A line that a run printed, when it is one of a log."""
    found = _LINE.match(line_as_text(line))
    return LogLine(found[1], found[2]) if found else None
