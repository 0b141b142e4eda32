"""`gpuhost rehearse`: the whole path on a fresh host made on this machine."""

from __future__ import annotations

import argparse
import subprocess
import sys

from gpuhost.cli.arguments import Commands, add_examples
from gpuhost.errors import Problem, UserError
from gpuhost.project import PROJECT


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    about = "the whole path on a fresh host made on this machine (root)"
    command = commands.add_parser("rehearse", help=about, description=about)
    command.add_argument("--suite", choices=("trixie", "bookworm"), default="trixie", help="Debian 13 or 12")
    command.add_argument("--keep", action="store_true", help="keep the host and print how to log in")
    examples = ("gpuhost rehearse", "gpuhost rehearse --suite bookworm --keep")
    add_examples(command, *examples, ok="proved", error="not, or an error")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Rehearse; the exit code. Raises UserError."""
    if not (PROJECT / "tests/rehearsal").is_dir():
        raise UserError(Problem("there is no rehearsal here", "run gpuhost from a checkout of the project"))
    command = [sys.executable, "-m", "tests.rehearsal", "--suite", options.suite]
    return subprocess.run([*command, *(["--keep"] if options.keep else [])], cwd=PROJECT, check=False).returncode
