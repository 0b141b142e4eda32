"""What a person sees while an apply works."""

from __future__ import annotations

import io
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpuhost.cli.progress import Printed, Progress, duration, looked, read
from gpuhost.run import log

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


def shown(lines: list[str], columns: int | None = None, step_s: float = 1.0, looks: str = "") -> str:
    out, clock = io.StringIO(), Clock()
    with Progress(out, columns, looks, clock) as progress:
        for line in lines:
            progress.line(line)
            clock.now_s += step_s
    return out.getvalue()


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
        "[gpu1] doing: engine: create /etc/docker: it does not exist",
        "[gpu2] doing: engine: create /etc/docker: it does not exist",
        "[gpu1] doing: engine: install Docker Engine: not installed: docker-ce",
        "engine          8 s",
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
    with Progress(out, None, clock=clock) as progress:
        progress.line(RUN[6])
        for clock.now_s in (3.0, 9.0, 12.0, 18.0, 23.0):
            progress.tick()
    assert out.getvalue().splitlines() == [
        "    engine, 12 s: Docker Engine",
        "    engine, 23 s: Docker Engine",
    ]


LOOK = [
    *RUN[:2],
    "    [gpu1] will: engine: create /etc/docker: it does not exist",
    "    [gpu1]     + features: {}",
    "--> Starting operation: verify | services answer ",
    "    [gpu1] Success",
]


def test_a_run_that_only_looks_has_a_line_of_its_own_and_leaves_none() -> None:
    screen = shown(LOOK, columns=60, looks="plan")
    drawn = [line for part in screen.split("\n") for line in part.split("\r\x1b[K")]
    assert "plan            1 s  [gpu1] Connected" in drawn
    assert "plan            2 s  [gpu1] engine: create /etc/docker: it " in drawn
    assert "plan            4 s  services answer" in drawn
    assert screen.endswith("\r\x1b[K") and "\n" not in screen
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


def test_on_a_terminal_one_line_is_drawn_and_one_stays_of_each_stage() -> None:
    screen = shown(RUN, columns=50)
    assert [line.rpartition("\x1b[K")[2] for line in screen.split("\n")[:-1]] == [
        "engine          8 s",
        "stacks          5 s",
    ]
    drawn = [line for part in screen.split("\n") for line in part.split("\r\x1b[K")]
    assert all(len(line) <= 49 for line in drawn)
    assert any("Unpacking docker-ce" in line for line in drawn)


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
