"""`gpuhost apply`: plan, ask, do exactly that. `gpuhost secrets sync` and `rotate` do the same with some stages."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from gpuhost.cli.arguments import Commands, add_examples, planned_target, run_options, shown_options
from gpuhost.cli.console import (
    ERROR,
    OK,
    confirmed,
    counted,
    exit_code,
    print_changes,
    print_idle,
    print_notes,
    print_result,
    print_without_failed,
)
from gpuhost.cli.progress import duration, looked, shown
from gpuhost.errors import Problem, UserError
from gpuhost.plan.change import Change
from gpuhost.plan.document import change_fields
from gpuhost.plan.impact import foreign_stops
from gpuhost.plan.performed import already_done, unplanned
from gpuhost.plan.report import select
from gpuhost.plan.totals import Totals
from gpuhost.run import pyinfra
from gpuhost.run.data import INVENTORY
from gpuhost.run.log import begin, line_as_text
from gpuhost.run.pyinfra import Outcome, Target, Watch
from hostside.wire import printable

Check = Callable[[Outcome], Problem | None]
Show = Callable[[list[dict[str, Any]], Mapping[str, Totals]], None]


@dataclass(frozen=True)
class Applied:
    """`outcome`: of the last run, which is the plan's when nothing was applied; `problems`: what that run did not
    report itself; `already_done`: the planned changes that were not necessary any more when their turn came;
    `seconds`: how long the changes took; `told`: the notes that stood beside the plan."""

    outcome: Outcome
    problems: Sequence[Problem] = ()
    already_done: Sequence[dict[str, Any]] = ()
    seconds: float = 0.0
    told: Sequence[str] = ()


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    about = "plan, ask, then do exactly that and prove that the services answer"
    command = commands.add_parser("apply", help=about, description=about)
    run_options(command)
    shown_options(command)
    command.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    command.add_argument("-y", "--yes", action="store_true", help="do not ask")
    about = "with --yes: also stop containers that are not gpuhost's, when a restart of Docker does"
    command.add_argument("--stop-foreign", action="store_true", help=about)
    about = "of `gpuhost plan --out PLAN`: exactly that is done, or nothing when something changed since"
    command.add_argument("plan", nargs="?", metavar="PLAN", help=about)
    examples = ("gpuhost apply --limit gpu1", "gpuhost apply --yes", "gpuhost apply plan.json")
    add_examples(command, *examples, ok="done and proved", error="error, or the answer was no")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Apply and print; the exit code. Raises UserError."""
    check = _as_saved(options) if options.plan else lambda outcome: None
    show = partial(print_changes, everything=options.verbose, diffs=options.diff)
    hosts = planned_target(options)
    planned = plan(hosts, options.json, options.only, check)
    applying = partial(apply, hosts, options.yes, options.json, show=show, stop_foreign=options.stop_foreign)
    applied = applying(options.only, planned=planned)
    if applied and _goes_on(applied) and not options.plan:
        if not options.json:
            print(*_made(applied), "The NVIDIA driver is loaded. What else there is to do:", sep="\n")
        rest = applying()
        applied = _joined(applied, rest) if options.json and rest else rest
    code = print_applied(applied, options)
    if exit_code(planned.outcome) == ERROR and not options.json:
        print_without_failed(planned.outcome, options)
    return code


def _goes_on(applied: Applied) -> bool:
    """Whether a driver was installed, which comes alone, and is loaded now."""
    done = exit_code(applied.outcome) == OK and not applied.problems
    return done and any(select(applied.outcome.events, "driver"))


def _joined(first: Applied, rest: Applied) -> Applied:
    """What two applies in a row did, as one: the changes of both, else what the second one found."""
    made = list(select(first.outcome.events, "performed"))
    outcome = replace(rest.outcome, events=[*made, *rest.outcome.events])
    seconds = first.seconds + rest.seconds
    return replace(rest, outcome=outcome, already_done=[*first.already_done, *rest.already_done], seconds=seconds)


def _as_saved(options: argparse.Namespace) -> Check:
    """Takes inventory and hosts from the plan that the options name; the check that a plan made now is the same.

    Raises UserError with everything on this side that changed since.
    """
    from gpuhost.cli.site import site
    from gpuhost.plan import saved

    if options.inventory != INVENTORY or options.limit or options.only or options.pyinfra:
        hint = "leave out --inventory, --limit, --only and what follows `--`"
        raise UserError(Problem("a plan that was kept names its inventory and its hosts", hint))
    file = Path(options.plan)
    kept = saved.read(file)
    options.inventory, options.limit, options.only = kept.inventory, kept.limits, kept.only
    options.everything = kept.everything
    if problems := saved.changed_here(kept, site(options), file):
        raise UserError(*problems)
    return lambda outcome: saved.changed_on_hosts(kept, outcome.events, outcome.changes("plan"), file)


def plan(target: Target, silent: bool, only: Sequence[str] = (), check: Check = lambda outcome: None) -> Applied:
    """A plan that is not applied yet. `silent`: what it does is not shown meanwhile; `only`: the stages to which it is
    limited; `check`: the problem because of which it must not be applied, or None."""
    outcome = looked("plan", lambda watch: pyinfra.plan(target, only, watch), silent)
    if exit_code(outcome) == ERROR:
        return Applied(outcome)
    problem = check(outcome)
    return Applied(outcome, [problem] if problem else [])


def apply(
    target: Target,
    yes: bool,
    as_json: bool,
    only: Sequence[str] = (),
    check: Check = lambda outcome: None,
    show: Show = print_changes,
    stop_foreign: bool = False,
    planned: Applied | None = None,
    command: str = "apply",
) -> Applied | None:
    """Plan, ask unless `yes`, apply with the plan as allow-list; None when the person said no. `show`: prints a plan;
    `stop_foreign`: containers that are not ours may be stopped without a question, too; `planned`: the plan, when there
    is one already; `command`: after which the log is called."""
    planned = planned or plan(target, as_json, only, check)
    if exit_code(planned.outcome) == ERROR or planned.problems:
        return planned
    changes, told = planned.outcome.changes("plan"), list[str]()
    if not as_json:
        told = print_notes(planned.outcome, planned=True)
        show(changes, planned.outcome.totals())
        print_idle(planned.outcome)
    foreign = {} if stop_foreign else foreign_stops(changes, planned.outcome.events)
    if foreign and yes:
        problems = [_stops_foreign(host, names) for host, names in foreign.items()]
        return Applied(planned.outcome, problems, told=told)
    if changes and not yes and not confirmed(_question(len(changes), foreign)):
        return None
    if not changes:  # nothing is written, nobody is asked: what is left of the run is its proof
        if not as_json:
            print("Nothing to do.")
        return Applied(looked("verify", lambda watch: pyinfra.look(target, "verify", watch=watch), as_json), told=told)
    began = time.monotonic()
    outcome = watched(command, lambda watch: pyinfra.apply(target, planned.outcome.events, only, watch), as_json)
    seconds = time.monotonic() - began
    unnecessary = already_done(changes, outcome.events, succeeded=exit_code(outcome) != ERROR)
    return Applied(outcome, unplanned(changes, outcome.events), unnecessary, seconds, told)


def watched(command: str, run: Callable[[Watch], Outcome], silent: bool) -> Outcome:
    """A run whose lines all go to a log of this command; what it does now is shown unless `silent`."""
    with ExitStack() as stack:
        log = begin(command)
        if log:
            stack.enter_context(log)
        progress = None if silent else stack.enter_context(shown())

        def watch(line: str) -> None:
            if log:
                print(line_as_text(line), file=log, flush=True)
            if progress:
                progress.line(line)

        return replace(run(watch), log=log.name if log else "")


def _question(count: int, foreign: Mapping[str, Sequence[str]]) -> str:
    """By name what is not ours and stops."""
    stops = "; ".join(f"{', '.join(names)} on {host}" for host, names in foreign.items())
    stopped = f", and stop {stops} (not gpuhost's)" if stops else ""
    return printable(f"Apply {counted(count)}{stopped}?")


def _stops_foreign(host: str, names: Sequence[str]) -> Problem:
    what = f"Docker's restart stops containers that are not gpuhost's: {', '.join(names)}"
    return Problem(what, "add --stop-foreign when they may stop, or answer the question of `gpuhost apply`", host)


def print_applied(applied: Applied | None, options: argparse.Namespace, document: dict[str, Any] | None = None) -> int:
    """Print how it ended; the exit code. `options`: of the command line; `document`: further parts of the JSON
    document."""
    if applied is None:
        return ERROR
    if not options.json:
        for change in applied.already_done:
            made = Change.of(change)
            line = printable(f"{made.stage}: {made.action} {made.resource.name}")
            print(f"[{change['host']}] already done when its turn came: {line}", file=sys.stderr)
        for line in _made(applied):
            print(line)
    parts = {"already_done": change_fields(applied.already_done), **(document or {})}
    code = print_result(applied.outcome, options, applied.problems, parts, planned=True, told=applied.told)
    if applied.outcome.log and (code != OK or not options.json):
        print(f"all that was printed meanwhile: {applied.outcome.log}", file=sys.stderr)
    return code


def _made(applied: Applied) -> Iterator[str]:
    """How many changes were made on each host, and how long all together took."""
    made = Counter(event["host"] for event in select(applied.outcome.events, "performed"))
    for name, count in made.items():
        yield printable(f"[{name}] {counted(count)} made in {duration(applied.seconds)}.")
