"""What a user did that cannot work: one sentence, and what to do about it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hostside.wire import printable


class Cause(NamedTuple):
    """Why something cannot be: `what` in one sentence, `hint` something to do about it."""

    what: str
    hint: str


WORDS = "what it printed says more"  # the hint when nobody knows a better one


@dataclass(frozen=True)
class Problem:
    """A cause that stops a run: `what` in one sentence, `hint` something to do; `host` empty when it concerns none."""

    what: str
    hint: str
    host: str = ""
    detail: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What a person reads: `error: [host] what`, `hint: ...`, then the detail (a log's end), if there is one.

        All of it may quote what a host or a container said: control characters are shown as text.
        """
        where = f"[{self.host}] " if self.host else ""
        lines = [f"error: {where}{self.what}", f"hint: {self.hint}", *(f"  | {line}" for line in self.detail)]
        return [printable(line) for line in lines]


def explain(known: Iterable[tuple[str, str, str]], text: str) -> Cause | None:
    """The first of the known failures that a program's output shows; None when it shows none.

    `known`: pattern, sentence, hint; the groups of the pattern that matched stand for `{0}`, `{1}` in the sentence.
    """
    for pattern, what, hint in known:
        found = re.search(pattern, text)
        if found:
            return Cause(what.format(*(group for group in found.groups() if group)), hint)
    return None


def suggest(name: str, known: list[str], kind: str) -> str:
    """A hint: the nearest known name, else the list of what there is."""
    near = nearest(name, known)
    return f"did you mean `{near}`?" if near else f"there is: {', '.join(sorted(known)) or f'no {kind} yet'}"


def nearest(name: str, known: Sequence[str]) -> str:
    """The known name that is most like another one; "" when none is."""
    return next(iter(difflib.get_close_matches(name, known, n=1)), "")


class UserError(Exception):
    """Raised where bad input is found; the command line prints its problems and exits 1."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(problem.what for problem in problems))
        self.problems = problems
