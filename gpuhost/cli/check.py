"""`gpuhost check`: is what the hosts should be in order? Contacts none."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from gpuhost.cli.arguments import Commands, add_examples, host_options
from gpuhost.cli.console import OK, print_problems
from gpuhost.cli.site import site
from gpuhost.errors import Problem
from gpuhost.project import PROJECT
from gpuhost.services import conformity
from gpuhost.services.files import is_compose_file

_NOT_OURS = {"build", "node_modules", "tests"}  # and what begins with a dot


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    about = "pinned images, arguments, paths, compose files: is the data in order? Contacts no host"
    command = commands.add_parser("check", help=about, description=about)
    host_options(command)
    add_examples(command, "gpuhost check", "gpuhost check -i ~/lab", ok="in order", error="not, or an error")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print each finding once, however many hosts have it; the exit code. Raises UserError for invalid data."""
    found = site(options)
    problems = [problem for host in found.chosen for problem in conformity.problems(found.catalogs[host])]
    problems += [problem for folder in dict.fromkeys((PROJECT, found.folder)) for problem in _foreign(folder)]
    for sentence in found.unused:
        print(f"note: {sentence}", file=sys.stderr)
    if problems:
        return print_problems(*dict.fromkeys(problems))
    print(f"in order: {', '.join(found.chosen)}")
    return OK


def _foreign(top: Path) -> Iterator[Problem]:
    """A compose file that lies in a project or a site: hosts get those that the catalogue gives, and no others."""
    for folder, inside, files in os.walk(top):
        inside[:] = sorted(name for name in inside if not name.startswith(".") and name not in _NOT_OURS)
        for name in sorted(filter(is_compose_file, files)):
            yield Problem(
                f"{Path(folder, name)} is a compose file that the catalogue does not name",
                "describe its services in group_data, or move it away: each stack's file is rendered",
            )
