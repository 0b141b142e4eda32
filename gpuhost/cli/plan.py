"""`gpuhost plan`: what an apply would change, and why."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpuhost.cli.arguments import (
    Commands,
    add_examples,
    inventory_file,
    planned_target,
    run_options,
    shown_options,
    shows_everything,
)
from gpuhost.cli.console import (
    ERROR,
    RESULTS,
    again,
    exit_code,
    others,
    print_changes,
    print_idle,
    print_notes,
    print_problems,
    print_without_failed,
    problems_of,
)
from gpuhost.cli.progress import looked
from gpuhost.errors import Problem, UserError
from gpuhost.plan.document import document
from gpuhost.plan.text import is_counted
from gpuhost.run import pyinfra
from gpuhost.run.pyinfra import Outcome


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    about = "what an apply would change, and why; changes nothing"
    command = commands.add_parser("plan", help=about, description=about)
    run_options(command)
    shown_options(command)
    command.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    command.add_argument("--out", metavar="FILE", help="keep the plan, for `gpuhost apply FILE`")
    examples = ("gpuhost plan --limit gpu1", "gpuhost plan --out plan.json", "gpuhost plan -v --json")
    add_examples(command, *examples, ok="nothing to do", changes="changes")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Plan and print; the exit code. Raises UserError."""
    if options.out and options.pyinfra:
        what, hint = "a plan that is kept takes no options for pyinfra", "leave out what follows `--`, or --out"
        raise UserError(Problem(what, hint))
    target = planned_target(options)
    outcome = looked("plan", lambda watch: pyinfra.plan(target, options.only, watch), options.json)
    changes = outcome.changes("plan")
    code = exit_code(outcome, changes)
    if options.out and code != ERROR:
        _keep(options, outcome, changes)
    if options.json:
        made = document(RESULTS[code], changes, outcome.events, problems_of(outcome), outcome.totals())
        print(json.dumps(made, indent=2))
        return code
    print_notes(outcome, planned=True)
    if code == ERROR:
        _, rest = others(outcome)
        print_changes(
            [each for each in changes if each["host"] in rest], outcome.totals(), options.verbose, options.diff
        )
        sys.stdout.flush()
        print_problems(*problems_of(outcome))
        print_without_failed(outcome, options)
        return code
    print_changes(changes, outcome.totals(), options.verbose, options.diff)
    print_idle(outcome)
    for line in _next(options, not options.verbose and is_counted(changes)) if changes else ["Nothing to do."]:
        print(line)
    return code


def _next(options: argparse.Namespace, counted: bool) -> Iterator[str]:
    """The last line is what comes next. `counted`: of some changes the number alone was shown. `-v` by itself has what
    is in every new file, too: thousands of lines for a bare host."""
    more = "; `-v --no-diff` lists what is only counted" if counted else ""
    yield f"Nothing has been changed{more}."
    if options.out:
        yield f"`gpuhost apply {shlex.quote(options.out)}` does exactly this, or refuses."
    else:
        named = "".join(f" --only {stage}" for stage in options.only)
        more = f" -- {shlex.join(options.pyinfra)}" if options.pyinfra else ""
        yield f"`gpuhost apply{again(options)}{named}{more}` does exactly this."


def _keep(options: argparse.Namespace, outcome: Outcome, changes: Sequence[dict[str, Any]]) -> None:
    """Write the plan with what it rests on."""
    from gpuhost.cli.site import site
    from gpuhost.plan import saved

    inventory = inventory_file(options.inventory)
    asked = options.limit, options.only, shows_everything(options)
    kept = saved.made_of(site(options), inventory, *asked, outcome.events, changes)
    saved.write(Path(options.out), kept)
