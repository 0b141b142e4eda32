"""`gpuhost verify`: does every service answer through its published port?"""

from __future__ import annotations

import argparse

from gpuhost.cli.arguments import Commands, add_examples, run_options, target
from gpuhost.cli.console import print_result
from gpuhost.cli.progress import looked
from gpuhost.run import pyinfra


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    about = "ask every service through its published port"
    command = commands.add_parser("verify", help=about, description=about)
    run_options(command)
    about = "also go through the chain from the driver to a computation in a container, on every GPU"
    command.add_argument("--gpu", action="store_true", help=about)
    command.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    add_examples(
        command, "gpuhost verify", "gpuhost verify --gpu --limit gpu1", ok="all answer", error="not, or an error"
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ask and print; the exit code."""
    stages = ("verify", "gpu-proof") if options.gpu else ("verify",)
    hosts = target(options)
    outcome = looked("verify", lambda watch: pyinfra.look(hosts, *stages, watch=watch), options.json)
    return print_result(outcome, options)
