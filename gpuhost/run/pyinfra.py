"""One run of pyinfra as a program, with a report of its own: the same deploy.py, whoever starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from gpuhost.plan import report
from gpuhost.plan.impact import with_impacts
from gpuhost.project import PROJECT
from gpuhost.run.data import ALLOW_DATA, CWD_DATA, ONLY_DATA, REPORT_DATA, REVISIONS_DATA

KEPT_LINES = 5000  # the last ones of what a run printed
Watch = Callable[[str], None]  # is told each line that pyinfra prints, as it comes


@dataclass(frozen=True)
class Outcome:
    """What a run gave: pyinfra's exit code, the report's events, what it printed."""

    code: int
    events: list[dict[str, Any]]
    output: str

    def problems(self) -> list[dict[str, Any]]:
        """Why it failed, in the order in which it was reported."""
        return list(report.select(self.events, "problem"))

    def changes(self, phase: str) -> list[dict[str, Any]]:
        """The changes of a phase, `plan` or `apply`, with what each costs."""
        chosen = [event for event in report.select(self.events, "change") if event["phase"] == phase]
        return with_impacts(chosen, self.events)


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


def plan(target: Target, only: Sequence[str] = ()) -> Outcome:
    """What an apply would do, limited to some stages when there are any. Changes nothing on any host."""
    # With --json pyinfra never asks; its stdout is not needed, ours is the report.
    return _run(target, ["--dry", "--json"], _limit(only))


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
        return _run(target, ["-y"], data, watch, [allow, revisions])


def look(target: Target, *stages: str, watch: Watch = lambda line: None) -> Outcome:
    """Some stages alone, which look and change nothing: `verify`, `gpu-proof`, `audit`."""
    return _run(target, ["-y"], _limit(stages), watch)


def _limit(stages: Sequence[str]) -> dict[str, str]:
    return {ONLY_DATA: ",".join(stages)} if stages else {}


def _path(file: IO[str]) -> str:
    """How the process that inherits a file opens it. It has no name: whoever is killed leaves nothing behind."""
    return f"/dev/fd/{file.fileno()}"


def _run(
    target: Target,
    flags: Sequence[str],
    data: Mapping[str, str],
    watch: Watch = lambda line: None,
    inherited: Sequence[IO[str]] = (),
) -> Outcome:
    with tempfile.TemporaryFile("w+") as told:
        names = {REPORT_DATA: _path(told), CWD_DATA: str(Path.cwd()), **target.data, **data}
        entries = [f"--data={key}={value}" for key, value in names.items()]
        command = [sys.executable, "-m", "pyinfra", target.inventory, "deploy.py", *flags, *target.options, *entries]
        environment = dict(os.environ)
        if target.sudo_password is not None:
            environment["GPUHOST_SUDO_PASSWORD"] = target.sudo_password
        code, output = _printed(command, target.project, environment, [told, *inherited], watch)
        return Outcome(code, report.read(Path(_path(told))), output)


def _printed(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], inherited: Sequence[IO[str]], watch: Watch
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
            assert program.stderr is not None
            for line in program.stderr:
                lines.append(line)
                watch(line.rstrip("\n"))
            program.wait()
        except BaseException:
            program.kill()
            raise
    return program.returncode, "".join(lines)
