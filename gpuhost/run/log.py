"""The log of an apply, and of a run whose end nobody can explain: all that pyinfra printed, in a file of the operator's
own (0600); the last ones are kept."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from hostside.wire import printable

KEPT = 20
_COLOUR = r"\x1b\[[0-9;]*m"


def folder() -> Path:
    """`$XDG_STATE_HOME/gpuhost/logs`, `~/.local/state/gpuhost/logs` by default."""
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if state.startswith("/") else Path.home() / ".local/state") / "gpuhost/logs"


def begin(command: str) -> TextIO | None:
    """A new log; older ones go. None when the folder cannot be written: a run does not fail for want of a log."""
    logs, name = folder(), f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}-{command}.log"
    try:
        logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = open(logs / name, "x", errors="replace", opener=_own)  # noqa: SIM115  # of a path it takes no opener
    except OSError:
        return None
    for old in sorted(logs.glob(f"[0-9]*T[0-9]*-{command}.log"))[:-KEPT]:
        with suppress(OSError):
            old.unlink()
    return log


def kept(output: str) -> str:
    """A log of what a run printed that had none; its path, "" when it cannot be written."""
    log = begin("unexplained")
    if log is None:
        return ""
    with log:
        for line in output.splitlines():
            print(line_as_text(line), file=log)
    return log.name


def _own(path: str, flags: int) -> int:
    """Opened so that nobody else ever reads it."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def line_as_text(line: str) -> str:
    """A line of a program's, without its colours, other control characters as their escapes."""
    return printable(re.sub(_COLOUR, "", line).rstrip("\r"))
