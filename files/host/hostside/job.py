"""A program that takes long, as a systemd unit of its own: started, or attached to when it runs.

    python -m hostside.job run NAME --folder FOLDER --what WHAT -- COMMAND... < its stdin
    python -m hostside.job ended FILE

`run` prints what the program prints, from its first line on, and exits as it does: a lost connection ends the printing
and not the program. When the unit runs already, an earlier connection's, it is followed to its end first; COMMAND is
started then, and finds what that one did. It needs root and systemd 249; NAME becomes `gpuhost-NAME.service`.

The program's stdin is memory without a name, handed over by descriptor, so that a secret in it is in no file, no
argument and no property of the unit. Its lines lie in FOLDER, which is root's alone, while it runs. `ended` is what
systemd runs behind it, however it died: it says how in the last line, and removes the file.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

LOOK_EVERY_S = 0.1  # at the lines
ASK_EVERY_S = 2.0  # systemd, whether it still runs
_END = b"\x1e"  # begins the last line: no program of ours prints it
_LOST = 125  # the exit status when nobody knows how it ended
_HINT = "hint: `journalctl -k` says whether for memory; run again: it goes on"


def run(name: str, folder: Path, what: str, command: Sequence[str], stdin: bytes) -> int:
    """The exit status of `command`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    unit, lines = f"gpuhost-{name}.service", folder / f"{name}.lines"
    while True:
        with _alone(folder):
            ours = not _runs(unit)
            followed = _start(unit, lines, command, stdin) if ours else _open(lines)
        if followed:
            if not ours:
                print(f"{what} goes on, as an earlier run started it", file=sys.stderr, flush=True)
            with followed:
                ended = _follow(unit, followed)
            if ours:
                return _told(what, ended)
        else:  # between its last line and its end
            time.sleep(LOOK_EVERY_S)


def ended(lines: Path) -> None:
    """Says how the unit ended, in systemd's words, to all who follow it."""
    words = {name: os.environ.get(name, "") for name in ("SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS")}
    with lines.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        unfinished = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * unfinished + _END + json.dumps(words).encode() + b"\n")
    lines.unlink()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One at a time looks whether the unit runs, and starts it. The kernel frees the lock of the dead."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _runs(unit: str) -> bool:
    """Also while it ends."""
    asked = ["systemctl", "show", "--property=ActiveState", "--value", unit]
    state = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    return state not in ("inactive", "failed", "")


def _start(unit: str, lines: Path, command: Sequence[str], stdin: bytes) -> BinaryIO:
    """Its lines, to be read. Raises OSError when systemd refuses."""
    lines.unlink(missing_ok=True)  # of a boot or a systemd that died
    output = os.open(lines, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    followed = lines.open("rb")
    behind = shlex.join([sys.executable, "-I", "-B", "-m", "hostside.job", "ended", str(lines)])
    start = ["systemd-run", f"--unit={unit}", "--quiet", "--collect", "--pipe", f"--property=ExecStopPost={behind}"]
    # systemd would put its own variables into the words.
    start += ["--property=NoNewPrivileges=yes", "--", *(word.replace("$", "$$") for word in command)]
    with os.fdopen(output, "wb") as out, os.fdopen(os.memfd_create("stdin"), "w+b") as memory:
        memory.write(stdin)
        memory.seek(0)
        # It stays until the unit ends; nobody needs it, and a session of its own keeps it from what ends ours.
        waiting = subprocess.Popen(start, stdin=memory, stdout=out, stderr=out, start_new_session=True)
    while not _runs(unit) and lines.exists():
        if waiting.poll() and lines.exists():
            lines.unlink()
            raise OSError(followed.read().decode(errors="replace").strip())
        time.sleep(LOOK_EVERY_S / 5)
    return followed


def _open(lines: Path) -> BinaryIO | None:
    try:
        return lines.open("rb")
    except FileNotFoundError:
        return None


def _follow(unit: str, lines: BinaryIO) -> dict[str, str] | None:
    """Prints its lines until the last; None when it ended without one."""
    asked_s, rest = time.monotonic(), b""
    while True:
        rest += lines.read()
        *whole, rest = rest.split(b"\n")
        for line in whole:
            if line.startswith(_END):
                return dict(json.loads(line[1:]))
            sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
        if whole:
            continue
        if time.monotonic() - asked_s > ASK_EVERY_S:
            if not _runs(unit) and not lines.peek(1):  # type: ignore[attr-defined]
                return None
            asked_s = time.monotonic()
        time.sleep(LOOK_EVERY_S)


def _told(what: str, ended: dict[str, str] | None) -> int:
    if ended and ended["EXIT_CODE"] == "exited":
        return int(ended["EXIT_STATUS"])
    how = f" ({ended['SERVICE_RESULT']}, {ended['EXIT_STATUS']})" if ended else ""
    print(f"error: {what} was killed{how}\n{_HINT}", file=sys.stderr)
    return _LOST


def main(arguments: Sequence[str]) -> int:
    """`arguments`: behind `--`, the command."""
    options, command = arguments, arguments[len(arguments) :]
    if "--" in arguments:
        at = arguments.index("--")
        options, command = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(prog="hostside.job")
    actions = parser.add_subparsers(dest="action", required=True)
    running = actions.add_parser("run")
    running.add_argument("name")
    running.add_argument("--folder", type=Path, required=True)
    running.add_argument("--what", required=True)
    actions.add_parser("ended").add_argument("lines", type=Path)
    asked = parser.parse_args(options)
    if asked.action == "ended":
        ended(asked.lines)
        return 0
    try:
        return run(asked.name, asked.folder, asked.what, command, sys.stdin.buffer.read())
    except BrokenPipeError:  # nobody listens any more: the unit goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _LOST
    except OSError as error:
        print(f"error: {asked.what} cannot be started: {error}\nhint: try it there: systemd-run true", file=sys.stderr)
        return _LOST


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
