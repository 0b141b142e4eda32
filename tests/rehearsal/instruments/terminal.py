"""A terminal with somebody at it: a program is started on a pty of its own and its prompts are answered."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shown:
    """What a program did on its terminal: exit code, and everything that the terminal showed."""

    code: int
    text: str


def at_terminal(
    command: Sequence[str], answers: Sequence[tuple[str, str]], cwd: Path, env: Mapping[str, str], limit_s: float
) -> Shown:
    """Run a program until it ends. `answers`: (prompt, answer), each given once, when its prompt is shown."""
    ours, theirs = pty.openpty()
    # setsid makes the pty the program's controlling terminal: a password is read from there, not from stdin.
    line = ["setsid", "--ctty", "--wait", *command]
    process = subprocess.Popen(line, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=dict(env))
    os.close(theirs)
    shown, seen, waiting, end = "", 0, list(answers), time.monotonic() + limit_s
    while more := _read(ours, end - time.monotonic()):
        shown += more
        if waiting and waiting[0][0] in shown[seen:]:
            seen = len(shown)
            os.write(ours, f"{waiting.pop(0)[1]}\n".encode())
    os.close(ours)
    if time.monotonic() > end:
        process.kill()
    return Shown(process.wait(), shown)


def _read(terminal: int, wait_s: float) -> str:
    """What came, "" when the program has ended or the time is over."""
    ready, _, _ = select.select([terminal], [], [], max(wait_s, 0))
    try:
        return os.read(terminal, 65536).decode(errors="replace") if ready else ""
    except OSError:  # Linux's way to say that nobody holds the other end
        return ""
