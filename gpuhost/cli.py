"""The command line: plan, apply, verify, rehearse. Thin: it runs the same deploy.py and reads the report.

Exit codes of plan: 0 nothing to do, 2 changes, 1 error. Of the others: 0 done and proved, 1 error. stdout is data,
stderr is talk.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import pyinfra_run, report
from .addresses import lines as address_lines
from .errors import Problem
from .pyinfra_run import Outcome, Target

OK, ERROR, CHANGES = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `gpuhost`; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "rehearse":
        return _rehearse(options)
    for needed in ("deploy.py", options.inventory):
        if not Path(needed).exists():
            where = "run gpuhost from the project's root" if needed == "deploy.py" else "name one with --inventory"
            return _refuse(Problem(f"there is no `{needed}` here", where))
    commands = {"plan": _plan, "apply": _apply, "verify": _verify}
    try:
        password = _ask_password() if options.use_sudo_password else None
        code = commands[options.command](Target(options.inventory, options.pyinfra, password), options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our stdout has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR
    except getpass.GetPassWarning:
        what = "nobody can be asked for sudo's password: there is no terminal"
        return _refuse(Problem(what, "run it in a terminal, or allow NOPASSWD for the login user"))
    except KeyboardInterrupt:
        return _refuse(Problem("stopped from the keyboard", "run it again: it goes on where it stopped"))
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpuhost", description="From a bare host to answering services.")
    commands = parser.add_subparsers(dest="command", required=True)
    about = {
        "plan": "what an apply would change, and why; changes nothing (exit 0: nothing, 2: changes, 1: error)",
        "apply": "plan, ask, then do exactly that and prove that the services answer",
        "verify": "ask every service through its published port",
    }
    for name, text in about.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("-i", "--inventory", default="inventory.py", help="pyinfra inventory (inventory.py)")
        command.add_argument("--json", action="store_true", help="the result as JSON on stdout")
        command.add_argument("--use-sudo-password", action="store_true", help="ask for sudo's password, once")
        command.add_argument(
            "pyinfra", nargs="*", metavar="-- PYINFRA OPTION", help="options for pyinfra: -- --limit gpu1"
        )
        if name == "apply":
            command.add_argument("-y", "--yes", action="store_true", help="do not ask")
    rehearse = commands.add_parser("rehearse", help="the whole path on a fresh host made on this machine (root)")
    rehearse.add_argument("--suite", choices=("trixie", "bookworm"), default="trixie", help="Debian 13 or 12")
    rehearse.add_argument("--keep", action="store_true", help="keep the host and print how to log in")
    return parser


def _plan(target: Target, options: argparse.Namespace) -> int:
    outcome = pyinfra_run.plan(target)
    code = _code(outcome, outcome.changes("plan"))
    if options.json:
        print(json.dumps(_document(outcome, "plan", code), indent=2))
        return code
    _tell(outcome)
    if code != ERROR:
        _list(outcome.changes("plan"))
        count = len(outcome.changes("plan"))
        print(f"{count} change{'s' if count != 1 else ''} to make." if count else "Nothing to do.")
    return code


def _apply(target: Target, options: argparse.Namespace) -> int:
    planned = pyinfra_run.plan(target)
    changes = planned.changes("plan")
    if _code(planned, changes) == ERROR:
        return _finish(planned, options, "apply")
    if not options.json:
        _list(changes)
    if changes and not options.yes and not _confirmed(len(changes)):
        return ERROR
    outcome = pyinfra_run.apply(target, planned.events, live=not options.json)
    return _finish(outcome, options, "apply", _differences(changes, outcome))


def _verify(target: Target, options: argparse.Namespace) -> int:
    return _finish(pyinfra_run.verify(target), options, "verify")


def _finish(outcome: Outcome, options: argparse.Namespace, phase: str, differences: Sequence[Problem] = ()) -> int:
    code = ERROR if _code(outcome, []) == ERROR or differences else OK
    if options.json:
        document = _document(outcome, phase, code)
        document["errors"] += [asdict(each) for each in differences]
        print(json.dumps(document, indent=2))
        return code
    _tell(outcome, differences)
    if code == OK:
        for line in address_lines(outcome.events):
            print(line)
    return code


def _differences(planned: Sequence[dict[str, Any]], outcome: Outcome) -> list[Problem]:
    """Performed must equal planned, on every host that did not fail."""
    if outcome.code != 0:
        return []
    performed = {_key(event) for event in report.select(outcome.events, "performed")}
    expected = {_key(event) for event in planned}
    hint = "this is a defect of gpuhost: please report it with the plan"
    found = [("was done, but not planned", key) for key in sorted(performed - expected)]
    found += [("was planned, but not done", key) for key in sorted(expected - performed)]
    return [
        Problem(f"`{stage}: {action} {subject}` {how}", hint, host) for how, (host, stage, subject, action) in found
    ]


def _key(event: dict[str, Any]) -> tuple[str, str, str, str]:
    return (event["host"], event["stage"], event["subject"], event["action"])


def _code(outcome: Outcome, changes: Sequence[dict[str, Any]]) -> int:
    if outcome.code != 0 or outcome.problems() or not list(report.select(outcome.events, "host")):
        return ERROR
    return CHANGES if changes else OK


def _document(outcome: Outcome, phase: str, code: int) -> dict[str, Any]:
    changes = outcome.changes("plan") if phase == "plan" else report.select(outcome.events, "performed")
    fields = ("host", "stage", "subject", "action", "reason")
    return {
        "result": {OK: "ok", CHANGES: "changes", ERROR: "error"}[code],
        "changes": [{key: event[key] for key in fields} for event in changes],
        "skipped": [
            {"host": event["host"], "service": event["service"], "reason": event["reason"]}
            for event in report.select(outcome.events, "skipped")
        ],
        "observed": list(report.select(outcome.events, "observed")),
        "errors": [asdict(problem) for problem in _problems(outcome)],
    }


def _problems(outcome: Outcome) -> list[Problem]:
    """What the run told, or else the last words of pyinfra: never nothing."""
    told = [
        Problem(event["what"], event["hint"], event["host"], tuple(event.get("detail", ())))
        for event in outcome.problems()
    ]
    if told or _code(outcome, []) == OK:
        return told
    words = tuple(outcome.output.splitlines()[-30:])
    where = "below" if words else "above"
    return [Problem("pyinfra stopped, and gpuhost does not know why", f"its own words are {where}", detail=words)]


def _list(changes: Sequence[dict[str, Any]]) -> None:
    stage = ""
    for change in changes:
        heading = f"[{change['host']}] {change['stage']}"
        if heading != stage:
            print(heading)
            stage = heading
        print(f"  {change['action']} {change['subject']}: {change['reason']}")


def _tell(outcome: Outcome, more: Sequence[Problem] = ()) -> None:
    for event in report.select(outcome.events, "skipped", "gpu"):
        print(f"[{event['host']}] {event['message']}", file=sys.stderr)
    for problem in [*_problems(outcome), *more]:
        print("\n".join(problem.lines()), file=sys.stderr)


def _confirmed(count: int) -> bool:
    if not sys.stdin.isatty():
        _refuse(Problem("nobody can be asked: stdin is not a terminal", "add --yes to apply without asking"))
        return False
    try:
        answer = input(f"Apply {count} change{'s' if count != 1 else ''}? [y/N] ")
    except EOFError:
        answer = ""
    return answer.strip().lower() in ("y", "yes")


def _ask_password() -> str:
    """Sudo's password, from a terminal only: elsewhere it would be shown. Raises GetPassWarning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        return getpass.getpass("sudo password: ")


def _refuse(problem: Problem) -> int:
    print("\n".join(problem.lines()), file=sys.stderr)
    return ERROR


def _rehearse(options: argparse.Namespace) -> int:
    if not Path("tests/rehearsal").is_dir():
        return _refuse(Problem("there is no rehearsal here", "run gpuhost from a checkout of the project"))
    command = [sys.executable, "-m", "tests.rehearsal", "--suite", options.suite]
    return subprocess.run([*command, *(["--keep"] if options.keep else [])], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
