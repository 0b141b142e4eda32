"""`gpuhost plan`: what an apply would change, and why."""

from __future__ import annotations

import argparse
import json

from gpuhost.cli.arguments import Commands, planned_target, run_options, shown_options
from gpuhost.cli.console import (
    ERROR,
    RESULTS,
    exit_code,
    print_changes,
    print_notes,
    print_problems,
    problems_of,
)
from gpuhost.plan.document import document
from gpuhost.run import pyinfra

_NEXT = "Nothing has been changed. `gpuhost apply` does exactly this; `-v` lists what is only counted."


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    about = "what an apply would change, and why; changes nothing (exit 0: nothing, 2: changes, 1: error)"
    command = commands.add_parser("plan", help=about, description=about)
    run_options(command)
    shown_options(command)
    command.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Plan and print; the exit code."""
    outcome = pyinfra.plan(planned_target(options))
    changes = outcome.changes("plan")
    code = exit_code(outcome, changes)
    if options.json:
        print(json.dumps(document(RESULTS[code], changes, outcome.events, problems_of(outcome)), indent=2))
        return code
    print_notes(outcome)
    print_problems(*problems_of(outcome))
    if code != ERROR:
        print_changes(changes, options.verbose, options.diff)
        print(_NEXT if changes else "Nothing to do.")
    return code
