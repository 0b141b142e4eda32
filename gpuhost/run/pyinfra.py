"""One run of pyinfra as a program, with a report of its own: the same deploy.py, whoever starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gpuhost.plan import report
from gpuhost.plan.impact import with_impacts
from gpuhost.project import PROJECT
from gpuhost.run.session import ALLOW_DATA, CWD_DATA, ONLY_DATA, REPORT_DATA


@dataclass(frozen=True)
class Outcome:
    """What a run gave: pyinfra's exit code, the report's events, what it printed (empty when shown live)."""

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

    `project`: the folder of deploy.py, the working directory of the run; the inventory may lie anywhere.
    """

    inventory: str
    options: Sequence[str] = ()
    sudo_password: str | None = None
    project: Path = PROJECT


def plan(target: Target, only: Sequence[str] = ()) -> Outcome:
    """What an apply would do, limited to some stages when there are any. Changes nothing on any host."""
    # With --json pyinfra never asks; its stdout is not needed, ours is the report.
    return _run(target, ["--dry", "--json"], _limit(only), live=False)


def apply(target: Target, planned: Sequence[Mapping[str, Any]], live: bool, only: Sequence[str] = ()) -> Outcome:
    """Do what was planned; a change that is not in `planned` (the events of a plan) fails its host."""
    with tempfile.TemporaryFile("w+") as allow:
        json.dump(report.allow_list(map(dict, planned)), allow)
        allow.seek(0)
        return _run(target, ["-y"], {ALLOW_DATA: _path(allow), **_limit(only)}, live, [allow])


def look(target: Target, *stages: str) -> Outcome:
    """Some stages alone, which look and change nothing: `verify`, `gpu-proof`, `audit`."""
    return _run(target, ["-y"], _limit(stages), live=False)


def _limit(stages: Sequence[str]) -> dict[str, str]:
    return {ONLY_DATA: ",".join(stages)} if stages else {}


def _path(file: IO[str]) -> str:
    """How the process that inherits a file opens it. It has no name: whoever is killed leaves nothing behind."""
    return f"/dev/fd/{file.fileno()}"


def _run(
    target: Target, flags: Sequence[str], data: Mapping[str, str], live: bool, inherited: Sequence[IO[str]] = ()
) -> Outcome:
    with tempfile.TemporaryFile("w+") as told:
        names = {REPORT_DATA: _path(told), CWD_DATA: str(Path.cwd()), **data}
        entries = [f"--data={key}={value}" for key, value in names.items()]
        command = [sys.executable, "-m", "pyinfra", target.inventory, "deploy.py", *flags, *target.options, *entries]
        environment = dict(os.environ)
        if target.sudo_password is not None:
            environment["GPUHOST_SUDO_PASSWORD"] = target.sudo_password
        shown = None if live else subprocess.PIPE
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=shown,
            cwd=target.project,
            env=environment,
            pass_fds=[file.fileno() for file in (told, *inherited)],
            text=True,
            check=False,
        )
        return Outcome(done.returncode, report.read(Path(_path(told))), done.stderr or "")
