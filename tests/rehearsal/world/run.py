"""Run a program on this machine."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class RunError(RuntimeError):
    """A program failed; the text holds the command and the end of what it said."""


@dataclass(frozen=True)
class Completed:
    """What a program left behind; output is text (undecodable bytes replaced)."""

    rc: int
    stdout: str
    stderr: str


def run(
    command: Sequence[str | Path],
    *,
    input: str | bytes | None = None,
    check: bool = True,
    timeout_s: float = 600,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> Completed:
    """Run `command` without a shell; raise RunError on a non-zero exit when `check`."""
    data = input.encode() if isinstance(input, str) else input
    done = subprocess.run(
        [str(part) for part in command],
        input=b"" if data is None else data,
        capture_output=True,
        timeout=timeout_s,
        env=env,
        cwd=cwd,
        check=False,
    )
    result = Completed(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
    if check and result.rc != 0:
        shown = " ".join(str(part) for part in command)[:300]
        raise RunError(f"{shown}\nexit {result.rc}\n{(result.stdout + result.stderr)[-3000:]}")
    return result


def wait_for(probe: Callable[[], T | None], what: str, timeout_s: float = 60, every_s: float = 0.05) -> T:
    """Poll `probe` until it returns something true; RunError names `what` when the time is over."""
    end = time.monotonic() + timeout_s
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > end:
            raise RunError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(every_s)
