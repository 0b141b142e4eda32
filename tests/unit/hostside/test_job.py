"""A detached program, with stand-ins for systemd's two commands; the real ones are in the rehearsals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .model_host import wait_for

TOKEN = "hf_never-to-be-seen"  # noqa: S105
# What the two do: one unit at a time, what it runs is a session of its own, and behind it ExecStopPost.
SYSTEMD_RUN = f"""#!{sys.executable}
import os, shlex, subprocess, sys
from pathlib import Path
state = Path(os.environ["STAND_IN"])
at = sys.argv.index("--")
given, command = sys.argv[1:at], [word.replace("$$", "$") for word in sys.argv[at + 1:]]
assert {{"--quiet", "--collect", "--pipe"}} <= set(given)
(state / "argv").write_text(str(sys.argv))
if command == ["refused"]:
    sys.exit("Failed to start transient service unit: No")
(behind,) = [each.partition("ExecStopPost=")[2] for each in given if "ExecStopPost=" in each]
try:
    (state / "active").touch(exist_ok=False)
except FileExistsError:
    sys.exit("Unit already exists")
if os.fork() == 0:
    os.setsid()
    code = subprocess.run(command).returncode
    words = ("success", "exited", str(code)) if code >= 0 else ("signal", "killed", "KILL")
    environ = dict(zip(("SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS"), words))
    subprocess.run(shlex.split(behind), env={{**os.environ, **environ}}, check=True)
    (state / "active").unlink()
    os._exit(0)
os.wait()
"""
SYSTEMCTL = """#!/bin/sh
[ -e "$STAND_IN/active" ] && echo active || echo inactive
"""


class Systemd:
    """`start`: a job, as an operation does."""

    def __init__(self, root: Path) -> None:
        self.root, self.state, self.jobs = root, root / "state", root / "jobs"
        bin_folder = root / "bin"
        for folder in (bin_folder, self.state):
            folder.mkdir()
        for name, script in (("systemd-run", SYSTEMD_RUN), ("systemctl", SYSTEMCTL)):
            (bin_folder / name).write_text(script)
            (bin_folder / name).chmod(0o755)
        self._environ = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "STAND_IN": str(self.state)}
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *command: str, stdin: str = "") -> subprocess.Popen[str]:
        line = [sys.executable, "-I", "-B", "-m", "hostside.job", "run", "models", "--folder", str(self.jobs)]
        line += ["--what", "the fetch", "--", *command]
        process = subprocess.Popen(line, env=self._environ, text=True, stdin=-1, stdout=-1, stderr=-1)
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
        process.stdin = None
        self.started.append(process)
        return process

    def left(self) -> list[str]:
        return [path.name for path in self.jobs.iterdir()]


@pytest.fixture
def systemd(tmp_path: Path) -> Systemd:
    return Systemd(tmp_path)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("code", [0, 1, 2, 7])
def test_its_lines_and_its_exit_status(systemd: Systemd, code: int) -> None:
    script = f"cat; echo two; echo three >&2; printf four; exit {code}"
    assert ended(systemd.start("sh", "-c", script, stdin="one\n")) == (code, "one\ntwo\nthree\nfour\n", "")
    assert systemd.left() == []


def test_no_secret_of_its_stdin_is_anywhere(systemd: Systemd) -> None:
    process = systemd.start("sh", "-c", "read line; echo ${#line}; exit 1", stdin=f"{TOKEN}\n")
    assert ended(process) == (1, f"{len(TOKEN)}\n", "")
    files = [path for path in systemd.root.rglob("*") if path.is_file()]
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


def test_whoever_loses_the_connection_attaches_again(systemd: Systemd) -> None:
    go = systemd.root / "go"
    os.mkfifo(go)
    first = systemd.start("sh", "-c", f"echo begun; read word < {go}; echo $word; echo ran >> {systemd.root}/count")
    assert first.stdout is not None and first.stdout.readline() == "begun\n"
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = systemd.start("sh", "-c", f"echo mine; echo ran >> {systemd.root}/count")
    assert second.stdout is not None and second.stdout.readline() == "begun\n"  # from its first line on
    go.write_text("end\n")
    code, out, err = ended(second)
    assert (code, out) == (0, "end\nmine\n") and "goes on, as an earlier run started it" in err
    assert (systemd.root / "count").read_text() == "ran\nran\n" and systemd.left() == []


def test_two_that_start_at_once_run_one_after_the_other(systemd: Systemd) -> None:
    script = f"echo in >> {systemd.root}/log; sleep 0.2; echo out >> {systemd.root}/log"
    several = [systemd.start("sh", "-c", script) for _ in range(3)]
    assert [ended(each)[0] for each in several] == [0, 0, 0]
    assert (systemd.root / "log").read_text() == "in\nout\n" * 3


def test_a_program_that_was_killed_is_told(systemd: Systemd) -> None:
    code, out, err = ended(systemd.start("sh", "-c", "echo begun; kill -9 $$"))
    assert (code, out) == (125, "begun\n") and err.startswith("error: the fetch was killed (signal, KILL)\nhint: ")
    assert systemd.left() == []


def test_what_systemd_refuses_is_told(systemd: Systemd) -> None:
    code, out, err = ended(systemd.start("refused"))
    assert (code, out) == (125, "") and "error: the fetch cannot be started: Failed to start transient" in err
    assert "hint: " in err and systemd.left() == []


def test_lines_of_a_systemd_that_died_are_forgotten(systemd: Systemd) -> None:
    systemd.jobs.mkdir()
    (systemd.jobs / "models.lines").write_text("of another boot\n")
    assert ended(systemd.start("echo", "mine")) == (0, "mine\n", "")


def test_a_unit_that_vanished_without_a_word_is_no_endless_wait(systemd: Systemd) -> None:
    process = systemd.start("sh", "-c", "echo $$; exec sleep 1000")
    assert process.stdout is not None
    sleeping = int(process.stdout.readline())
    (systemd.state / "active").unlink()
    code, _, err = ended(process)
    assert code == 125 and "the fetch was killed" in err
    os.kill(sleeping, signal.SIGKILL)


def test_its_lines_are_roots_alone(systemd: Systemd) -> None:
    process = systemd.start("sh", "-c", "echo begun; sleep 0.5")
    wait_for(lambda: (systemd.jobs / "models.lines").exists())
    assert (systemd.jobs / "models.lines").stat().st_mode & 0o777 == 0o600
    assert systemd.jobs.stat().st_mode & 0o777 == 0o700
    ended(process)
