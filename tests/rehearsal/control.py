"""The operator's side: the project's own commands, run as a person would, against one fresh host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .freshhost import FreshHost

PROJECT = Path(__file__).resolve().parents[2]
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
        listed = self.document["changes"] if self.document else []
        return [(change["stage"], change["subject"], change["action"]) for change in listed]

    @property
    def errors(self) -> list[dict[str, str]]:
        """Every error with `what` and `hint`."""
        return list(self.document["errors"]) if self.document else []


@dataclass
class Control:
    """`gpuhost` on this machine with the inventory of one host."""

    host: FreshHost
    options: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def plan(self, *pyinfra: str) -> Told:
        """`gpuhost plan --json`."""
        return self._gpuhost("plan", ["--json"], pyinfra)

    def apply(self, *pyinfra: str) -> Told:
        """`gpuhost apply --yes --json`."""
        return self._gpuhost("apply", ["--yes", "--json"], pyinfra)

    def verify(self, *pyinfra: str) -> Told:
        """`gpuhost verify --json`."""
        return self._gpuhost("verify", ["--json"], pyinfra)

    def text(self, command: str, *flags: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Any command of gpuhost as a person sees it."""
        return self._run([sys.executable, "-m", "gpuhost.cli", command, *self._inventory(), *flags], stdin)

    def pyinfra(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """Plain `pyinfra inventory.py deploy.py`."""
        return self._run([sys.executable, "-m", "pyinfra", str(self.host.inventory), "deploy.py", *flags])

    def _inventory(self) -> list[str]:
        return ["-i", str(self.host.inventory)]

    def _gpuhost(self, command: str, flags: list[str], pyinfra: tuple[str, ...]) -> Told:
        arguments = [sys.executable, "-m", "gpuhost.cli", command, *self._inventory(), *flags, *self.options]
        done = self._run([*arguments, *(["--", *pyinfra] if pyinfra else [])])
        return Told(done.returncode, json.loads(done.stdout) if done.stdout.strip() else None, done.stderr)

    def _run(self, command: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=PROJECT,
            env={**os.environ, "NO_COLOR": "1", **self.environment},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=APPLY_LIMIT_S,
            check=False,
        )
