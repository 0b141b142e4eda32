"""This machine: where the checkout lies, and what a rehearsal needs to be installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .cache import locked

PROJECT = Path(__file__).resolve().parents[3]
REHEARSAL = PROJECT / "tests" / "rehearsal"
PREPARE = REHEARSAL / "prepare.sh"


def prepare() -> None:
    """Install what is missing and start a Docker engine when none answers; under a second when all is there."""
    with locked("prepare"):
        subprocess.run([PREPARE], check=True, stdin=subprocess.DEVNULL)
