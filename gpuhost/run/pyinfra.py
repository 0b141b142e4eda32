"""One run of pyinfra as a program, with a report of its own: the same deploy.py, whoever starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

from gpuhost.plan import report
from gpuhost.plan.impact import with_impacts
from gpuhost.plan.totals import Totals, totals
from gpuhost.project import PROJECT
from gpuhost.run.data import ALLOW_DATA, CWD_DATA, ONLY_DATA, REPORT_DATA, REVISIONS_DATA

FINISH_S = 15.0  # how long the step at hand may take when a person wants to stop
STOPPING = "Stopping: the step at hand is finished first. Ctrl-C again stops at once."
STOP = signal.SIGUSR1  # by which a run is told (run/stop.py listens)
KEPT_LINES = 5000  # the last ones of what a run printed
Watch = Callable[[str], None]  # is told each line that pyinfra prints, as it comes


@dataclass(frozen=True)
class Outcome:
    """What a run gave: pyinfra's exit code, the report's events, what it printed. `stopped`: by Ctrl-C, and whether
    the step at hand was `finished` or `left` to the host; "" when nobody did. `seconds`: how long it took; `log`: the
    file with all that it printed, "" without one."""

    code: int
    events: list[dict[str, Any]]
    output: str
    stopped: Literal["", "finished", "left"] = ""
    seconds: float = 0.0
    log: str = ""

    def problems(self) -> list[dict[str, Any]]:
        """Why it failed, in the order in which it was reported."""
        return list(report.select(self.events, "problem"))

    def changes(self, phase: str) -> list[dict[str, Any]]:
        """The changes of a phase, `plan` or `apply`, with what each costs."""
        chosen = [event for event in report.select(self.events, "change") if event["phase"] == phase]
        return with_impacts(chosen, self.events)

    def totals(self) -> dict[str, Totals]:
        """host -> what the changes of this plan cost together; its apply looks once more for as long as this took."""
        return totals(self.changes("plan"), self.events, self.seconds)


@dataclass(frozen=True)
class Target:
    """What the command line names: the inventory, and options that go to pyinfra as they are.

    `project`: the folder of deploy.py, the working directory of the run; the inventory may lie anywhere. `data`: what a
    stage that is asked for is told.
    """

    inventory: str
    options: Sequence[str] = ()
    sudo_password: str | None = None
    project: Path = PROJECT
    data: Mapping[str, str] = field(default_factory=dict)


def plan(target: Target, only: Sequence[str] = (), watch: Watch = lambda line: None) -> Outcome:
    """What an apply would do, limited to some stages when there are any. Changes nothing on any host."""
    # With --json pyinfra never asks; its stdout is not needed, ours is the report.
    return _run(target, ["--dry", "--json"], _limit(only), watch)


def apply(
    target: Target,
    planned: Sequence[Mapping[str, Any]],
    only: Sequence[str] = (),
    watch: Watch = lambda line: None,
) -> Outcome:
    """Do what was planned; a change that is not in `planned` (the events of a plan) fails its host."""
    events = [*map(dict, planned)]
    with tempfile.TemporaryFile("w+") as allow, tempfile.TemporaryFile("w+") as revisions:
        json.dump(report.allow_list(events), allow)
        json.dump(report.revisions(events), revisions)
        for file in (allow, revisions):
            file.seek(0)
        data = {ALLOW_DATA: _path(allow), REVISIONS_DATA: _path(revisions), **_limit(only)}
        with Stop() as stop:
            outcome = _run(target, ["-y"], data, watch, [allow, revisions], stop)
        return replace(outcome, stopped=stop.how) if outcome.code else outcome


def look(target: Target, *stages: str, watch: Watch = lambda line: None) -> Outcome:
    """Some stages alone, which look and change nothing: `verify`, `gpu-proof`, `audit`."""
    return _run(target, ["-y"], _limit(stages), watch)


def _limit(stages: Sequence[str]) -> dict[str, str]:
    return {ONLY_DATA: ",".join(stages)} if stages else {}


def _path(file: IO[str]) -> str:
    """How the process that inherits a file opens it. It has no name: whoever is killed leaves nothing behind."""
    return f"/dev/fd/{file.fileno()}"


class Stop:
    """While it is entered, Ctrl-C lets the program finish the step at hand, for a while; the second one, or the end of
    that while, kills it: what it had begun on a host ends there, or the next run mends it, as after any death."""

    def __init__(self) -> None:
        self.how: Literal["", "finished", "left"] = ""
        self._program: subprocess.Popen[str] | None = None
        self._before: Any = None
        self._timer = threading.Timer(FINISH_S, self._kill)
        self._timer.daemon = True

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def of(self, program: subprocess.Popen[str]) -> None:
        """The program that is to stop."""
        self._program = program
        if self.how:  # asked for before it was there
            self._kill()

    def _interrupted(self, *_: object) -> None:
        again, self.how = bool(self.how), self.how or "finished"
        if self._program is None:
            return
        if again:
            self._kill()
            return
        print(f"\n{STOPPING}", file=sys.stderr, flush=True)
        self._program.send_signal(STOP)
        self._timer.start()

    def _kill(self) -> None:
        if self._program is not None and self._program.poll() is None:
            self.how = "left"
            self._program.kill()


def _run(
    target: Target,
    flags: Sequence[str],
    data: Mapping[str, str],
    watch: Watch = lambda line: None,
    inherited: Sequence[IO[str]] = (),
    stop: Stop | None = None,
) -> Outcome:
    with tempfile.TemporaryFile("w+") as told:
        names = {REPORT_DATA: _path(told), CWD_DATA: str(Path.cwd()), **target.data, **data}
        entries = [f"--data={key}={value}" for key, value in names.items()]
        program = [sys.executable, "-m", "gpuhost.run.program"]
        command = [*program, target.inventory, "deploy.py", *flags, *target.options, *entries]
        environment = dict(os.environ)
        if target.sudo_password is not None:
            environment["GPUHOST_SUDO_PASSWORD"] = target.sudo_password
        began = time.monotonic()
        code, output = _printed(command, target.project, environment, [told, *inherited], watch, stop)
        events = report.by_host(report.read(Path(_path(told))))
        return Outcome(code, events, output, seconds=time.monotonic() - began)


def _printed(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    inherited: Sequence[IO[str]],
    watch: Watch,
    stop: Stop | None,
) -> tuple[int, str]:
    """The exit code of a program and what it printed. Whatever ends this ends the program, too."""
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=environment,
        pass_fds=[file.fileno() for file in inherited],
        text=True,
        errors="replace",
    ) as program:
        try:
            if stop:
                stop.of(program)
            assert program.stderr is not None
            for line in program.stderr:
                lines.append(line)
                watch(line.rstrip("\n"))
            program.wait()
        except BaseException:
            program.kill()
            raise
    return program.returncode, "".join(lines)
