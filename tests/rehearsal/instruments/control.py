"""The operator's side: the project's own commands, run as a person would, against one fresh host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..world.freshhost import FreshHost
from ..world.machine import PROJECT
from .terminal import Shown, at_terminal

APPLY_LIMIT_S = 900


@dataclass(frozen=True)
class Told:
    """What a command gave: exit code, its JSON document (None when it printed none), stderr."""

    code: int
    document: dict[str, Any] | None
    stderr: str

    @property
    def changes(self) -> list[tuple[str, str, str]]:
        """(stage, subject, action) of every change, in order."""
        listed = self.document.get("changes", []) if self.document else []
        return [(change["stage"], change["resource"]["name"], change["action"]) for change in listed]

    @property
    def errors(self) -> list[dict[str, str]]:
        """Every error with `what` and `hint`."""
        return list(self.document["errors"]) if self.document else []


def as_operator(host: FreshHost) -> list[str]:
    """What a command begins with that runs on this machine with the names and the CA of the host's world."""
    return [str(host.run_dir.parents[1] / "operator")]


@dataclass
class Control:
    """`gpuhost` on this machine with the inventory of one host, or another `inventory`."""

    host: FreshHost
    options: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    inventory: Path | None = None

    def plan(self, *pyinfra: str) -> Told:
        """`gpuhost plan --json`."""
        return self._gpuhost("plan", ["--json"], pyinfra)

    def apply(self, *pyinfra: str) -> Told:
        """`gpuhost apply --yes --json`."""
        return self._gpuhost("apply", ["--yes", "--json"], pyinfra)

    def verify(self, *pyinfra: str) -> Told:
        """`gpuhost verify --json`."""
        return self._gpuhost("verify", ["--json"], pyinfra)

    def secrets(self, action: str, *flags: str) -> Told:
        """`gpuhost secrets ACTION --json FLAG...`, where sync and rotate do not ask."""
        asked = [] if action == "audit" else ["--yes"]
        return self._told([*self._gpuhost_line("secrets", action, *asked, "--json"), *flags])

    def secrets_text(self, action: str, *flags: str) -> subprocess.CompletedProcess[str]:
        """`gpuhost secrets ACTION FLAG...` as a person sees it, without a terminal."""
        return self._run(self._gpuhost_line("secrets", action, *flags))

    def text(self, command: str, *flags: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Any command of gpuhost as a person sees it."""
        return self._run(self._gpuhost_line(command, *flags), stdin)

    def models(self, action: str, *flags: str) -> Told:
        """`gpuhost models ACTION --json FLAG...`, where prune and import do not ask."""
        asked = ["--yes"] if action in ("prune", "import") else []
        return self._told([*self._gpuhost_line("models", action, *asked, "--json"), *flags])

    def models_text(self, action: str, *flags: str) -> subprocess.CompletedProcess[str]:
        """`gpuhost models ACTION FLAG...` as a person sees it, without a terminal."""
        return self._run(self._gpuhost_line("models", action, *flags))

    def pyinfra(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """Plain `pyinfra inventory.py deploy.py`."""
        return self._run(self._pyinfra_line(*flags))

    def python(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """A Python program, started in the project's folder."""
        return self._run([*as_operator(self.host), sys.executable, *words], stdin)

    def typed(self, *words: str, answers: Sequence[tuple[str, str]]) -> Shown:
        """A command of gpuhost on a terminal; `answers`: (prompt, answer)."""
        return self._typed(self._gpuhost_line(*words), answers)

    def typed_pyinfra(self, *flags: str, answers: Sequence[tuple[str, str]]) -> Shown:
        """Plain pyinfra on a terminal; `answers`: (prompt, answer)."""
        return self._typed(self._pyinfra_line(*flags), answers)

    @property
    def _inventory(self) -> str:
        return str(self.inventory or self.host.inventory)

    def _gpuhost_line(self, *words: str) -> list[str]:
        """The words of a command, its options among them; the inventory comes behind its name."""
        names = 2 if words[0] in ("secrets", "models") else 1
        command = ["-m", "gpuhost.cli.main", *words[:names], "-i", self._inventory, *words[names:]]
        return [*as_operator(self.host), sys.executable, *command]

    def _pyinfra_line(self, *flags: str) -> list[str]:
        return [*as_operator(self.host), sys.executable, "-m", "pyinfra", self._inventory, "deploy.py", *flags]

    def _gpuhost(self, command: str, flags: list[str], pyinfra: tuple[str, ...]) -> Told:
        line = self._gpuhost_line(command, *flags, *self.options)
        return self._told([*line, *(["--", *pyinfra] if pyinfra else [])])

    def _told(self, line: list[str]) -> Told:
        done = self._run(line)
        return Told(done.returncode, json.loads(done.stdout) if done.stdout.strip() else None, done.stderr)

    def _typed(self, line: list[str], answers: Sequence[tuple[str, str]]) -> Shown:
        return at_terminal(line, answers, PROJECT, self._environment(), APPLY_LIMIT_S)

    def _environment(self) -> dict[str, str]:
        state = str(self.host.run_dir / "state")  # the logs of applies are looked through, too
        return {**os.environ, "NO_COLOR": "1", "XDG_STATE_HOME": state, **self.environment}

    def _run(self, command: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=PROJECT,
            env=self._environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=APPLY_LIMIT_S,
            check=False,
        )
