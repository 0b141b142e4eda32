"""What a person sees while an apply works."""

from __future__ import annotations

import io
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpuhost.cli.progress import Printed, Progress, duration, looked, read
from gpuhost.cli.progress import shown as progress_of
from gpuhost.run import log
from tests.rehearsal.instruments.picture import settled

RUN = [
    "--> Connecting to hosts...",
    "    [gpu1] Connected",
    "--> Starting operation: engine | folders ",
    "    [gpu1] doing: engine: create /etc/docker: it does not exist",
    "    [gpu2] doing: engine: create /etc/docker: it does not exist",
    "    [gpu1] Success",
    "--> Starting operation: engine | Docker Engine ",
    "    [gpu1] doing: engine: install Docker Engine: not installed: docker-ce",
    "[gpu1] Unpacking docker-ce",
    "    [gpu1] Success",
    "--> Starting operation: gpu | CDI specification ",
    "    [gpu1] No changes",
    "--> Starting operation: stacks | services run ",
    "    [gpu1] doing: stacks: create api: no container",
    "    [gpu1] error: it cannot be",
    "    [gpu1] Error",
    "--> Results:",
]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one on which the tests run."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("LINES", "25")


def shown(lines: list[str], step_s: float = 1.0, looks: str = "") -> str:
    """Elsewhere than on a terminal."""
    out, clock = io.StringIO(), Clock()
    with Progress(out, terminal=False, looks=looks, clock=clock) as progress:
        for line in lines:
            progress.line(line)
            clock.now_s += step_s
    return out.getvalue()


def drawn(lines: list[str], columns: int, step_s: float = 1.0, looks: str = "") -> list[list[str]]:
    """What stands on a terminal after each line, and at the end."""
    out, clock, screens = io.StringIO(), Clock(), []
    with Progress(out, True, looks, clock, columns) as progress:
        for line in lines:
            progress.line(line)
            clock.now_s += step_s
            progress.tick()
            screens.append(settled(out.getvalue()))
    return [*screens, settled(out.getvalue())]


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        (RUN[0], None),
        (RUN[2], Printed("operation", "engine", "folders")),
        (RUN[3], Printed("doing", "gpu1", "create /etc/docker: it does not exist")),
        (RUN[8], Printed("said", "gpu1", "Unpacking docker-ce")),
        (RUN[5], Printed("done", "gpu1", "Success")),
        ("    [gpu1] No changes", None),
        ("    [gpu1] error: it cannot be", None),
        ("\x1b[1m[gpu1] \x1b[0mUnpacking \x1b[2Jx", Printed("said", "gpu1", "Unpacking \\x1b[2Jx")),
        ("[gpu1]  * branch   main", Printed("said", "gpu1", "* branch   main")),
        ("[gpu1] error: of a program", None),
        ("    [gpu1] verified: api answers", Printed("said", "gpu1", "verified: api answers")),
        (
            "    [gpu1] will: stacks: create api: no container",
            Printed("said", "gpu1", "stacks: create api: no container"),
        ),
        ("    [gpu1]     ~ memory: 24g -> 28g", None),
        ("    [gpu1]     +of a diff", None),
        ("", None),
    ],
)
def test_what_a_line_says(line: str, printed: Printed | None) -> None:
    assert read(line) == printed


def test_elsewhere_than_on_a_terminal_nothing_is_drawn_over() -> None:
    assert shown(RUN).splitlines() == [
        "prepare         2 s",
        "[gpu1] doing: engine: create /etc/docker: it does not exist",
        "[gpu2] doing: engine: create /etc/docker: it does not exist",
        "[gpu1] doing: engine: install Docker Engine: not installed: docker-ce",
        "engine          8 s",
        "gpu             2 s",
        "[gpu1] doing: stacks: create api: no container",
        "stacks          5 s",
    ]


def test_what_a_long_step_says_is_shown_now_and_then() -> None:
    lines = [*RUN[:3], RUN[3], *(f"[gpu1] step {number}" for number in range(30))]
    said = [line for line in shown(lines).splitlines() if "step" in line]
    assert said == [
        "    engine, 11 s: [gpu1] step 9",
        "    engine, 21 s: [gpu1] step 19",
        "    engine, 31 s: [gpu1] step 29",
    ]


def test_a_step_that_says_nothing_is_not_silent() -> None:
    """apt's: pyinfra shows nothing of what it prints."""
    out, clock = io.StringIO(), Clock()
    with Progress(out, terminal=False, clock=clock) as progress:
        progress.line(RUN[6])
        for clock.now_s in (3.0, 9.0, 12.0, 18.0, 23.0):
            progress.tick()
    assert out.getvalue().splitlines() == [
        "    engine, 12 s: Docker Engine",
        "    engine, 23 s: Docker Engine",
        "engine         23 s",
    ]


LOOK = [
    *RUN[:2],
    "    [gpu1] will: engine: create /etc/docker: it does not exist",
    "    [gpu1]     + features: {}",
    "--> Starting operation: verify | services answer ",
    "    [gpu1] Success",
]


def test_a_run_that_only_looks_has_a_line_of_its_own_and_leaves_none() -> None:
    screens = drawn(LOOK, columns=60, looks="plan")
    assert screens == [
        ["plan            1 s"],
        ["plan            2 s  [gpu1] Connected"],
        ["plan            3 s  [gpu1] engine: create /etc/docker: it …"],
        ["plan            4 s  [gpu1] engine: create /etc/docker: it …"],
        ["plan            5 s  services answer"],
        ["plan            6 s  services answer"],
        [""],
    ]
    assert shown(LOOK, looks="plan") == ""
    assert shown(LOOK, looks="plan", step_s=6).splitlines() == [
        "    plan, 12 s: [gpu1] engine: create /etc/docker: it does not exist",
        "    plan, 24 s: services answer",
    ]


@pytest.mark.parametrize("silent", [False, True])
def test_who_looks_is_told_what_is_done_meanwhile(capsys: pytest.CaptureFixture[str], silent: bool) -> None:
    def run(watch: Callable[[str], None]) -> str:
        time.sleep(0.01)
        watch("    [gpu1] Connected")
        return "found"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpuhost.cli.progress.SAID_EVERY_S", 0.001)
        assert looked("plan", run, silent) == "found"
    said = capsys.readouterr()
    assert said.out == "" and ("plan, 0 s: [gpu1] Connected" in said.err) == (not silent)


AGAIN = [
    "--> Starting operation: layout | folders ",
    "    [gpu1] doing: layout: create /opt/gpuhost: it does not exist",
    "    [gpu1] Success",
    "--> Starting operation: engine | daemon.json ",
    "    [gpu1] doing: engine: restart dockerd: daemon.json",
]


def test_on_a_terminal_each_stage_has_one_line_and_what_is_at_work_says_what_it_does() -> None:
    screens = drawn(RUN, columns=50)
    assert ["prepare         1 s", "engine          7 s  [gpu1] Unpacking docker-ce"] not in screens  # both took longer
    assert ["prepare         2 s", "engine          7 s  [gpu1] Unpacking docker-ce"] in screens
    assert ["prepare         2 s", "engine          8 s  [gpu1] Unpacking docker-ce"] in screens
    assert screens[-1] == ["prepare         2 s", "engine          8 s", "gpu             2 s", "stacks          5 s"]
    assert all(len(line) <= 50 for screen in screens for line in screen)


def test_a_stage_that_is_come_back_to_goes_on_in_its_line() -> None:
    screens = drawn([*RUN[2:10], *AGAIN], columns=80)
    assert screens[-2] == ["layout          3 s", "engine         10 s  [gpu1] restart dockerd: daemon.json"]
    assert screens[-1] == ["engine         10 s", "layout          3 s"]


def test_a_run_that_is_killed_leaves_a_terminal_with_a_cursor() -> None:
    out = io.StringIO()
    with Progress(out, True, clock=Clock(), columns=60) as progress:
        progress.line(RUN[2])
        progress.tick()
        assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")


def test_a_stage_that_found_nothing_to_do_at_once_leaves_no_line() -> None:
    assert drawn(RUN, columns=50, step_s=0.05)[-1] == ["engine          0 s", "stacks          0 s"]
    assert not {"prepare", "gpu"} & {line.split()[0] for line in shown(RUN, step_s=0.05).splitlines()}


def test_what_is_written_to_stderr_meanwhile_stands_above(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    with Progress(out, True, clock=Clock(), columns=60) as progress:
        for line in RUN[:8]:
            progress.line(line)
        progress.tick()
        print("\nStopping: the step at hand is finished first.", file=sys.stderr)
        progress.tick()
        screen = settled(out.getvalue())
    assert screen == [
        "",
        "Stopping: the step at hand is finished first.",
        "engine          0 s  [gpu1] install Docker Engine: not inst…",
    ]
    assert settled(out.getvalue())[:2] == screen[:2] and capsys.readouterr().err == ""
    print("as ever", file=sys.stderr)
    assert capsys.readouterr().err == "as ever\n"


def test_of_a_low_terminal_what_is_at_work_is_shown_and_nothing_stays_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "3")
    screens = drawn(RUN, columns=50)
    assert all(len(screen) <= 2 for screen in screens[:-1])
    assert ["prepare         2 s", "engine          7 s  [gpu1] Unpacking docker-ce"] in screens
    assert screens[-2][0] == "gpu             2 s" and screens[-2][1].startswith("stacks          5 s  ")
    assert screens[-1] == ["prepare         2 s", "engine          8 s", "gpu             2 s", "stacks          5 s"]


@pytest.mark.parametrize(("encoding", "end"), [("utf-8", "…"), ("latin-1", "insta"), ("ascii", "insta")])
def test_no_line_is_longer_than_the_terminal_in_any_encoding(encoding: str, end: str) -> None:
    written = io.BytesIO()
    out = io.TextIOWrapper(written, encoding, errors="backslashreplace", write_through=True)  # as Python's stderr
    with Progress(out, True, clock=Clock(), columns=60) as progress:
        progress.line(RUN[7])
        progress.tick()
        [line] = settled(written.getvalue().decode(encoding))
    assert len(line) == 60 and line.endswith(end)


@pytest.mark.parametrize(("term", "is_drawn"), [("xterm", True), ("dumb", False), ("unknown", False)])
def test_where_nothing_can_be_drawn_over_a_terminal_is_told_as_a_file(
    monkeypatch: pytest.MonkeyPatch, term: str, is_drawn: bool
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setenv("TERM", term)
    with progress_of() as progress:
        progress.line(RUN[7])
        progress.tick()
        meanwhile = out.getvalue()
    assert ("\x1b[" in meanwhile, "] doing: " in meanwhile) == (is_drawn, not is_drawn)


def test_at_one_more_ctrl_c_the_terminal_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    out, before, join = io.StringIO(), sys.stderr, threading.Thread.join

    def interrupted(thread: threading.Thread) -> None:
        join(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt), Progress(out, True, clock=Clock(), columns=60) as progress:
        progress.tick()
        assert sys.stderr is not before and settled(out.getvalue()) == ["prepare         0 s"]
    assert sys.stderr is before and settled(out.getvalue()) == [""]


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (245, "4 min 5 s")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_log_is_the_operators_alone_and_old_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder = log.folder()
    folder.mkdir(parents=True)
    other = folder / "notes.log"
    other.touch()
    for number in range(30):
        (folder / f"20200101T0000{number:02}-1-apply.log").touch()
    made = log.begin("apply")
    assert made is not None
    with made:
        made.write("a line\udcff\n")
    path = Path(made.name)
    assert path.parent == folder == tmp_path / "gpuhost/logs" and path.read_text() == "a line?\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(list(folder.glob("*-apply.log"))) == log.KEPT and other.exists()
    assert not (folder / "20200101T000000-1-apply.log").exists()


def test_a_run_does_not_fail_for_want_of_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpuhost").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert log.begin("apply") is None


@pytest.mark.parametrize("value", [None, "", "relative"])
def test_where_logs_lie_by_default(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    if value is None:
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_STATE_HOME", value)
    assert log.folder() == Path("/home/somebody/.local/state/gpuhost/logs")
