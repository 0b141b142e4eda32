"""`gpuhost destroy`: take off a host what gpuhost made there. Data, models and installs stay."""

from __future__ import annotations

import argparse
from functools import partial

from gpuhost.cli.apply import apply, plan, print_applied
from gpuhost.cli.arguments import Commands, add_examples, run_options, target
from gpuhost.cli.console import ERROR, OK, again, exit_code, print_changes, print_notes

STAGE = "destroy"


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    about = "remove the services, networks, images, units and programs that gpuhost made; data and models stay"
    command = commands.add_parser("destroy", help=about, description=about)
    run_options(command)
    command.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    command.add_argument("-y", "--yes", action="store_true", help="do not ask")
    add_examples(command, "gpuhost destroy --limit gpu1", error="error, or the answer was no")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Plan, ask, do exactly that; the exit code."""
    hosts = target(options)
    planned = plan(hosts, options.json, [STAGE])
    if exit_code(planned.outcome) == ERROR:
        return print_applied(planned, options)
    if not planned.outcome.changes("plan"):
        if options.json:
            return print_applied(planned, options)
        print_notes(planned.outcome, planned=True)
        print("Nothing to remove: gpuhost has nothing there but data.")
        return OK
    show = partial(print_changes, everything=True)
    applied = apply(hosts, options.yes, options.json, [STAGE], show=show, planned=planned, command="destroy")
    code = print_applied(applied, options)
    if code == OK and not options.json:
        print(f"`gpuhost apply{again(options)}` makes all of it again, with the data that stayed.")
    return code
