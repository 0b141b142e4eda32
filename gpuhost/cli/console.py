"""What every command has in common: exit codes, problems on stderr, questions at a terminal."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from gpuhost.errors import Problem
from gpuhost.plan import report, text
from gpuhost.plan.document import VERSION, document, error_document
from gpuhost.plan.impact import with_impacts
from gpuhost.plan.totals import Totals
from gpuhost.run.data import INVENTORY
from gpuhost.run.log import kept
from gpuhost.run.pyinfra import Outcome
from gpuhost.verify.addresses import lines as address_lines
from gpuhost.verify.addresses import login_lines, verdict_lines

OK, ERROR, CHANGES = 0, 1, 2
STOPPED = 130  # by Ctrl-C, as shells have it
LAST_LINES = 30  # of pyinfra's, below a problem
USAGE = 64  # a command line that cannot be read: EX_USAGE of sysexits.h, for 2 is taken
_UNUSABLE = re.compile(r"^Usage: .*^Error: (.*?)\.?\s*$", re.DOTALL | re.MULTILINE)  # what click says and ends with
RESULTS = {OK: "ok", CHANGES: "changes", ERROR: "error", STOPPED: "stopped"}


def exit_code(outcome: Outcome, changes: Sequence[Any] = ()) -> int:
    """OK, CHANGES when there are some, ERROR when the run failed or reached no host."""
    if outcome.code != 0 or outcome.problems() or not list(report.select(outcome.events, "host")):
        return ERROR
    return CHANGES if changes else OK


def problems_of(outcome: Outcome) -> list[Problem]:
    """The problems that a run reported; when it failed without one, how pyinfra ended and the last lines that it
    printed; a log keeps more."""
    found = [*([_stopped(outcome)] if outcome.stopped else []), *_reported(outcome)]
    if found or exit_code(outcome) == OK:
        return found
    if unusable := _UNUSABLE.search(outcome.output):
        what = f"an option for pyinfra cannot be used: {unusable[1]}"
        return [Problem(what, "pyinfra's options follow `--`; its own help: `pyinfra --help`")]
    return [_unexplained(outcome)]


def _reported(outcome: Outcome) -> list[Problem]:
    return [
        Problem(event["what"], event["hint"], event["host"], tuple(event.get("detail", ())))
        for event in outcome.problems()
    ]


def _unexplained(outcome: Outcome) -> Problem:
    lines = outcome.output.splitlines()
    hints = ["`journalctl -k` says whether this machine ran out of memory"] if outcome.code == -signal.SIGKILL else []
    if not lines:
        hints.append("it printed nothing")
    elif log := outcome.log or kept(outcome.output):
        hints.append(f"its last words are below; its log: {log}")
    else:
        hints.append("its last words are below")
    what = f"pyinfra {_end(outcome.code)}, and gpuhost does not know why"
    return Problem(what, "; ".join(hints), detail=tuple(lines[-LAST_LINES:]))


def _end(code: int) -> str:
    """How a program ended. `code`: as subprocess has it."""
    if code == 0:
        return "reached no host"
    if code > 0:
        return f"ended with code {code}"
    named = {each.value: each.name for each in signal.Signals}
    return f"was ended by {named.get(-code, f'the signal {-code}')}"


def _stopped(outcome: Outcome) -> Problem:
    how = "the step at hand was finished" if outcome.stopped == "finished" else "the step at hand was left to the host"
    return Problem(f"stopped from the keyboard; {how}", "run it again: it goes on from there")


def print_result(
    outcome: Outcome,
    options: argparse.Namespace,
    problems: Sequence[Problem] = (),
    more: dict[str, Any] | None = None,
    planned: bool = False,
    told: Sequence[str] = (),
) -> int:
    """Print how an apply or a look ended; the exit code.

    `options`: of the command line; `problems`: those that the run did not report itself; `more`: further parts of the
    JSON document; `planned`: something was to change; `told`: the notes that the person has read already.
    """
    found = [*problems_of(outcome), *problems]
    code = STOPPED if outcome.stopped else ERROR if found else OK
    if options.json:
        performed = with_impacts(report.select(outcome.events, "performed"), outcome.events)
        print(json.dumps({**document(RESULTS[code], performed, outcome.events, found), **(more or {})}, indent=2))
        return code
    print_notes(outcome, planned, told)
    print_problems(*found)
    for line in verdict_lines(outcome.events):
        print(line)
    if code == OK:
        inventory = same_inventory(options)
        for line in [*address_lines(outcome.events), *login_lines(outcome.events, again(options), inventory)]:
            print(line)
    return code


def again(options: argparse.Namespace) -> str:
    """What names the same inventory and hosts on another command line: ` -i lab -l gpu1`, "" when none was named."""
    limits = [word for name in options.limit for word in ("-l", name)]
    return f"{same_inventory(options)} {shlex.join(limits)}" if limits else same_inventory(options)


def same_inventory(options: argparse.Namespace) -> str:
    """What names the same inventory on another command line: ` -i lab`, "" when none was named."""
    return "" if options.inventory == INVENTORY else f" {shlex.join(['-i', options.inventory])}"


def print_notes(outcome: Outcome, planned: bool = False, told: Sequence[str] = ()) -> list[str]:
    """What a run found that is no problem, on stderr: skipped services, a host without a GPU, what runs on demand; the
    lines. `planned`: also what only concerns who changes something; `told`: the lines that are not said again."""
    lines = [line for line in text.note_lines(outcome.events, planned) if line not in told]
    for line in lines:
        _say(line)
    return lines


def print_problems(*problems: Problem) -> int:
    """Print problems on stderr; the exit code of a command that ends with them."""
    for problem in problems:
        what, hint, *detail = problem.lines()
        for line in (what, hint):
            _say(line)
        for line in detail:
            print(line, file=sys.stderr)
    return ERROR


def _say(line: str) -> None:
    """A line on stderr; on a terminal as several that fit."""
    columns = shutil.get_terminal_size().columns if sys.stderr.isatty() else 0
    print("\n".join(text.fitted(line, columns) if columns else [line]), file=sys.stderr)


def print_document(result: str, parts: dict[str, Any], problems: Sequence[Problem]) -> None:
    """The JSON document of a run that looked at something, on stdout."""
    print(json.dumps({"version": VERSION, "result": result, **parts, "errors": [*map(asdict, problems)]}, indent=2))


def print_error_document(*problems: Problem) -> int:
    """Problems as JSON on stdout, because of which nothing was begun; the exit code."""
    print(json.dumps(error_document(problems), indent=2))
    return ERROR


def print_changes(
    changes: Iterable[dict[str, Any]], totals: Mapping[str, Totals], everything: bool = False, diffs: bool = True
) -> None:
    """A plan on stdout. `totals`: what it costs, by host; `everything`: folders and files of ours are listed, not
    counted; `diffs`: with what differs."""
    terminal = sys.stdout.isatty()
    columns = max(80, min(120, shutil.get_terminal_size().columns)) if terminal else 80
    style = _coloured if terminal and not os.environ.get("NO_COLOR") else lambda sign, line: line
    for line in text.plan_lines(changes, text.Shown(everything, diffs, columns, style), totals):
        print(line)


def print_idle(outcome: Outcome) -> None:
    """Beside a plan of other hosts, on stdout: those where there is nothing to do."""
    changing = {change["host"] for change in outcome.changes("plan")}
    idle = [event["host"] for event in report.select(outcome.events, "host") if event["host"] not in changing]
    if changing and idle:
        print(f"{', '.join(idle)}: nothing to do.")


def others(outcome: Outcome) -> tuple[list[str], list[str]]:
    """The hosts of a plan that failed, and those that it can be carried out on without them; none when what failed is
    no matter of single hosts."""
    names = [name for event in report.select(outcome.events, "hosts") for name in event["names"]]
    failed = {problem.host for problem in _reported(outcome)}
    if outcome.stopped or not failed <= {*names}:
        return [], []
    return [name for name in names if name in failed], [name for name in names if name not in failed]


def print_without_failed(outcome: Outcome, options: argparse.Namespace) -> None:
    """Below a plan that failed on some hosts, on stderr: how the others go on."""
    failed, rest = others(outcome)
    if failed and rest and not getattr(options, "plan", None):  # a plan that was kept has its hosts
        words = shlex.join([*options.pyinfra, *(word for name in failed for word in ("--exclude", name))])
        named = "".join(f" --only {stage}" for stage in options.only)
        one = "it" if len(failed) == 1 else "them"
        line = f"nothing has been changed; without {one}: `gpuhost apply{again(options)}{named} -- {words}`"
        _say(line)


def _coloured(sign: text.Sign, line: str) -> str:
    colours: dict[text.Sign, str] = {"+": "green", "~": "yellow", "-": "red"}
    return click.style(line, fg=colours[sign])


def counted(count: int, noun: str = "change") -> str:
    """`1 change`, `2 changes`."""
    return f"{count} {noun}{'s' if count != 1 else ''}"


class Unanswered(KeyboardInterrupt):
    """Ctrl-C at a question: nothing has been changed."""


def confirmed(question: str) -> bool:
    """True when a person at the terminal says yes. Raises Unanswered."""
    if not sys.stdin.isatty():
        print_problems(Problem("nobody can be asked: stdin is not a terminal", "add --yes to apply without asking"))
        return False
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)  # stdout is data
    try:
        answer = input()
    except EOFError:
        answer = ""
    except KeyboardInterrupt:
        print(file=sys.stderr)  # behind the question
        raise Unanswered from None
    agreed = answer.strip().lower() in ("y", "yes")
    if not agreed:
        print("Nothing has been changed.", file=sys.stderr)
    return agreed
