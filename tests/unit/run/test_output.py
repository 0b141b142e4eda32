"""What a host prints reaches the terminal as text, and the reader whole, whatever it is."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from queue import Queue
from typing import Any

import click
import pytest
from paramiko.file import BufferedFile
from pyinfra import logger
from pyinfra.api import output as pyinfra_output
from pyinfra.connectors import util
from pyinfra_cli.log import LogFormatter, LogHandler

from gpuhost.cli import console
from gpuhost.errors import Problem
from gpuhost.plan import text
from gpuhost.plan.change import Change, Difference, Impact, Resource
from gpuhost.plan.totals import totals
from gpuhost.run import output
from gpuhost.run.pyinfra import Outcome
from gpuhost.verify import addresses

# Fill the clipboard, clear the screen, go up and write over our line, C1's CSI, hide, turn the direction round.
ATTACK = "a\x1b]52;c;cm0gLXJm\x07\x1b[2J\x1b[1A\x1b[2K\rerror: forged\x9b31m\x1b[8m\u202egpj\x7f\x08z"
FORBIDDEN = {*map(chr, range(32)), *map(chr, range(127, 160)), "\u202e"} - {"\n"}


def is_text(shown: str) -> bool:
    return not FORBIDDEN & set(shown)


@pytest.fixture(autouse=True)
def as_text(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(util, "read_buffer", util.read_buffer)
    monkeypatch.setattr(click, "echo", click.echo)
    before = pyinfra_output._echo
    output.show_as_text()
    yield
    pyinfra_output.set_echo(before)


def local(script: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, util.CommandOutput, str]:
    """Run by pyinfra's own function on this machine, shown live."""
    code, read = util.run_local_process(f"{sys.executable} -c {script!r}", print_output=True, print_prefix="[gpu1] ")
    return code, read, capsys.readouterr().err


def test_a_log_is_shown_as_text_and_read_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    code, read, shown = local(f"print({ATTACK!r}); print('\\x1b[32mgreen\\x1b[0m')", capsys)
    assert code == 0 and read.stdout_lines == [ATTACK, "\x1b[32mgreen\x1b[0m"]
    first, second = shown.splitlines()
    assert is_text(first) and first.startswith("[gpu1] a\\x1b]52;c;") and "\\rerror: forged\\x9b31m" in first
    assert second == "[gpu1] green"


def test_bytes_that_are_no_text_do_not_end_the_reading(capsys: pytest.CaptureFixture[str]) -> None:
    """pyinfra's own reader dies at them, and the program waits for ever to be read: more than a pipe holds follows."""
    script = "import sys; w = sys.stdout.buffer.write; w(b'\\xff\\xfe\\n'); w(b'x\\n' * 60_000); w(b'end')"
    started = time.monotonic()
    code, read, shown = local(script, capsys)
    assert code == 0 and len(read.stdout_lines) == 60_002 and read.stdout_lines[-1] == "end"
    assert read.stdout_lines[0] == "\ufffd\ufffd" and is_text(shown) and time.monotonic() - started < 60


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(output, "LINE_BYTES_MAX", 1000)
    monkeypatch.setattr(output, "KEPT_BYTES_MAX", 3000)
    script = "import sys; w = sys.stdout.write; w('a' * 5_000_000 + chr(10)); w(('b' * 100 + chr(10)) * 20_000)"
    code, read, _ = local(script, capsys)
    assert code == 0 and read.stdout_lines == ["a" * 1000, *["b" * 100] * 20]


class OverSsh(BufferedFile):  # type: ignore[type-arg]
    """A channel's file, as pyinfra opens it."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._content = content
        self._set_mode("r", -1)  # type: ignore[attr-defined]

    def _read(self, size: int) -> bytes:
        piece, self._content = self._content[:size], self._content[size:]
        return piece


def test_the_same_over_ssh(capsys: pytest.CaptureFixture[str]) -> None:
    lines: Queue[util.OutputLine] = Queue()
    content = b"\xff\n" + ATTACK.encode() + b"\n" + b"y" * 200_000 + b"\nend"
    util.read_buffer("stderr", OverSsh(content), lines, print_output=True, print_func=lambda line: f"[gpu1] {line}")
    assert [each.line for each in lines.queue] == ["\ufffd", ATTACK, "y" * 200_000, "end"]
    assert is_text(capsys.readouterr().err)


def test_what_pyinfra_logs_keeps_its_own_styles_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exception's text, say, in which a host is quoted."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    handler = LogHandler()
    handler.setFormatter(LogFormatter())
    logger.addHandler(handler)
    try:
        logger.error("[%s] %s", click.style("gpu1", bold=True), ATTACK)
        click.echo(f"Traceback\n{ATTACK}\n", err=True, nl=False)
    finally:
        logger.removeHandler(handler)
    shown = capsys.readouterr().err
    for style in ("\x1b[1m", "\x1b[31m", "\x1b[0m"):
        shown = shown.replace(style, "")
    assert is_text(shown) and "Traceback\n" in shown and "\\x1b[2J" in shown


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"event": kind, "host": "gpu1", **fields}


def test_everything_that_gpuhost_prints_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    change = Change(
        "stacks",
        Resource("file", ATTACK),
        "write",
        ATTACK,
        (Difference("field", ATTACK, ATTACK),),
        impact=Impact(stops=(ATTACK,), restarts=(), disk_bytes=None, opens=(ATTACK,)),
    )
    events = [event(kind, message=f"{kind} {ATTACK}", service=ATTACK, reason=ATTACK) for kind in text.NOTES]
    events += [event("host"), event("problem", what=ATTACK, hint=ATTACK, detail=[ATTACK])]
    outcome = Outcome(1, events, "")
    options = argparse.Namespace(json=False, inventory="inventory.py", limit=[ATTACK])
    console.print_result(outcome, options, planned=True)
    console.print_result(Outcome(1, [], ATTACK), options)  # what pyinfra said when nobody knows why
    console.print_result(outcome, argparse.Namespace(json=True))
    console.print_problems(Problem(ATTACK, ATTACK, "gpu1", (ATTACK,)))
    measures = [{"kind": "service", "name": "api", "seconds": 1.0, "disk_bytes": None}]
    seen = {"measures": measures, "free_bytes": {ATTACK: 1}, "data": ATTACK, "docker": ATTACK, "proof_s": 0.0}
    made = {"host": "gpu1", **asdict(change)}
    console.print_changes([made], totals([made], [event("measured", **seen)]))
    print(*addresses.lines([event("address", message=ATTACK)]))
    print(*addresses.login_lines([event("login", secrets=[ATTACK])], console.again(options)))
    shown = capsys.readouterr()
    assert is_text(shown.err) and is_text(shown.out.replace("\x7f", ""))  # JSON leaves DEL as it is; no terminal acts
    notes = len(text.NOTES) - 1  # of what is not pinned the words before the colon are shown
    assert shown.err.count("forged") >= notes + 7 and shown.out.count("forged") >= 6


def test_a_terminal_that_is_no_terminal_gets_the_same() -> None:
    """The process's own stderr: what a person's log file holds."""
    code = (
        "from gpuhost.run.output import show_as_text; show_as_text()\n"
        "from pyinfra.connectors import util\n"
        "import pyinfra.api.output\n"
        "util.run_local_process(r\"printf 'a\\033[2Jb\\n'\", print_output=True, print_prefix='> ')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "> a\\x1b[2Jb\n"


def test_a_command_of_a_host_can_be_shown_in_other_words(capsys: pytest.CaptureFixture[str]) -> None:
    """Its stdout is; the reader gets it as it was, and another host's is left alone."""
    script = "import sys; print(1); print(2); print(3, file=sys.stderr)"
    with output.shown_as("[gpu1] ", lambda line: None if line == "2" else f"line {line}\x1b[2J"):
        code, read, shown = local(script, capsys)
    assert code == 0 and read.stdout_lines == ["1", "2"]
    assert "[gpu1] line 1\\x1b[2J" in shown.splitlines() and "3" in shown
    assert "line 2" not in shown and "line 3" not in shown
    with output.shown_as("[gpu2] ", lambda line: "another's"):
        assert "another's" not in local(script, capsys)[2]
    assert "[gpu1] 1" in local(script, capsys)[2]
