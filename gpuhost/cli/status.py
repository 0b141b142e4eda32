"""`gpuhost status`: what every service of every host does now."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpuhost.cli.arguments import Commands, add_examples, run_options, target
from gpuhost.cli.console import ERROR, OK, print_document, print_notes, print_problems, problems_of
from gpuhost.cli.progress import looked
from gpuhost.errors import Problem
from gpuhost.plan import report
from gpuhost.run import pyinfra
from gpuhost.services.status import table
from hostside.wire import printable


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    about = "a table per host: service, state, health, port, GPU, since when"
    command = commands.add_parser("status", help=about, description=about)
    run_options(command)
    command.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    examples = ("gpuhost status --limit gpu1", "gpuhost status --json")
    add_examples(command, *examples, ok="all as they should be", error="not, or an error")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ask Docker on each host, nothing else; the exit code."""
    hosts = target(options)
    outcome = looked("status", lambda watch: pyinfra.plan(hosts, ["status"], watch), options.json)
    services, problems = list(report.select(outcome.events, "service")), problems_of(outcome)
    wrong = [each for each in services if not each["ok"]]
    code = ERROR if problems or wrong else OK
    if options.json:
        result = "error" if problems else "degraded" if wrong else "ok"
        shown = [{key: value for key, value in each.items() if key != "event"} for each in services]
        print_document(result, {"services": shown}, problems)
        return code
    for line in _lines(services):
        print(line)
    print_notes(outcome)
    print_problems(*problems)
    if wrong:
        names = ", ".join(f"{each['service']} on {each['host']}" for each in wrong)
        hint = "`gpuhost logs SERVICE` shows its log, `gpuhost verify` says why, `gpuhost apply` mends"
        print_problems(Problem(f"not as it should be: {names}", hint))
    return code


def _lines(services: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for host in dict.fromkeys(each["host"] for each in services):
        yield printable(str(host))
        yield from table([each for each in services if each["host"] == host])
