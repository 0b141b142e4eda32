"""What a person sees while an apply works."""

from __future__ import annotations

import io
import stat
from pathlib import Path

import pytest

from gpuhost.cli.progress import Printed, Progress, duration, read
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
    "    [gpu1] Unpacking docker-ce",
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


def shown(lines: list[str], columns: int | None = None, step_s: float = 1.0) -> str:
    out, clock = io.StringIO(), Clock()
    with Progress(out, columns, clock) as progress:
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
        ("\x1b[1m    [gpu1] \x1b[0mUnpacking \x1b[2Jx", Printed("said", "gpu1", "Unpacking \\x1b[2Jx")),
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
    lines = [*RUN[:3], RUN[3], *(f"    [gpu1] step {number}" for number in range(100))]
    said = [line for line in shown(lines).splitlines() if "step" in line]
    assert said == ["    [gpu1] step 29", "    [gpu1] step 59", "    [gpu1] step 89"]


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
