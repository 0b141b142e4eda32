"""`gpuhost logs`: the log of a service, secrets masked."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from gpuhost.cli.arguments import Commands, add_examples, run_options, target
from gpuhost.cli.complete import completed_by, services
from gpuhost.cli.console import ERROR, OK, print_problems, problems_of
from gpuhost.cli.site import service_hosts, site
from gpuhost.errors import Problem, UserError
from gpuhost.run import pyinfra
from gpuhost.run.data import LOGS_DATA
from gpuhost.services.logs import Asked, read

TAIL, TAIL_MAX = 100, 100_000


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    about = "the log of a service on each host that has it; secrets are masked"
    command = commands.add_parser("logs", help=about, description=about)
    service = command.add_argument("service", metavar="SERVICE", help="its name in the data")
    completed_by(service, services)
    command.add_argument("-f", "--follow", action="store_true", help="go on with what comes; Ctrl-C ends it")
    command.add_argument("-n", "--tail", type=int, default=TAIL, metavar="N", help=f"the last N lines ({TAIL})")
    run_options(command)
    examples = ("gpuhost logs comfyui-qwen --tail 20", "gpuhost logs comfyui-qwen --follow --limit gpu1")
    add_examples(command, *examples, ok="shown")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show; the exit code. Raises UserError."""
    if not 0 <= options.tail <= TAIL_MAX:
        raise UserError(Problem(f"--tail {options.tail} is no number of lines", f"a number from 0 to {TAIL_MAX}"))
    hosts = service_hosts(site(options), options.service)
    asked = Asked(options.service, options.tail, options.follow)
    named = target(options, {LOGS_DATA: asked.as_text()})
    named = replace(named, options=[*(f"--limit={host}" for host in hosts), *options.pyinfra])

    silent = dict.fromkeys(hosts)

    def watch(line: str) -> None:
        if found := read(line):
            silent.pop(found.host, None)
            print(f"[{found.host}] {found.text}" if len(hosts) > 1 else found.text, flush=True)

    try:
        outcome = pyinfra.look(named, "logs", watch=watch)
    except KeyboardInterrupt:
        if not options.follow:
            raise
        return OK
    problems = problems_of(outcome)
    print_problems(*problems)
    if problems:
        return ERROR
    for host in silent if options.tail else ():
        print(f"[{host}] {options.service} has no log there; `gpuhost status` shows whether it ran", file=sys.stderr)
    return OK
