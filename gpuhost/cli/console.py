"""What the command line says of a run: text for people, one JSON document, an exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gpuhost.errors import Problem
from gpuhost.plan import report
from gpuhost.plan.change import Change
from gpuhost.run.pyinfra import Outcome
from gpuhost.verify.addresses import lines as address_lines

OK, ERROR, CHANGES = 0, 1, 2


def finish(outcome: Outcome, as_json: bool, phase: str, more: Sequence[Problem] = (), **extra: Any) -> int:
    """Say how a run ended; `more`: problems that it could not tell itself, `extra`: further parts of the document."""
    code = ERROR if exit_code(outcome, []) == ERROR or more else OK
    if as_json:
        made = document(outcome, phase, code)
        made["errors"] += [asdict(each) for each in more]
        print(json.dumps({**made, **extra}, indent=2))
        return code
    tell(outcome, more)
    if code == OK:
        for line in address_lines(outcome.events):
            print(line)
    return code


def differences(planned: Sequence[dict[str, Any]], outcome: Outcome) -> list[Problem]:
    """Performed must equal planned, on every host that did not fail."""
    if outcome.code != 0:
        return []
    performed = {_key(event) for event in report.select(outcome.events, "performed")}
    expected = {_key(event) for event in planned}
    hint = "this is a defect of gpuhost: please report it with the plan"
    found = [("was done, but not planned", key) for key in sorted(performed - expected)]
    found += [("was planned, but not done", key) for key in sorted(expected - performed)]
    return [Problem(f"`{stage}: {action} {name}` {how}", hint, host) for how, (host, stage, _, name, action) in found]


def _key(event: dict[str, Any]) -> tuple[str, ...]:
    return (event["host"], *Change.of(event).key)


def exit_code(outcome: Outcome, changes: Sequence[dict[str, Any]]) -> int:
    """OK, CHANGES when there are some, ERROR when the run failed or reached no host."""
    if outcome.code != 0 or outcome.problems() or not list(report.select(outcome.events, "host")):
        return ERROR
    return CHANGES if changes else OK


def document(outcome: Outcome, phase: str, code: int) -> dict[str, Any]:
    """The JSON document of a run; `phase` plan: the changes to make, else those that were made."""
    changes = outcome.changes("plan") if phase == "plan" else report.select(outcome.events, "performed")
    fields = ("host", "stage", "resource", "action", "reason", "diff")
    return {
        "result": {OK: "ok", CHANGES: "changes", ERROR: "error"}[code],
        "changes": [{key: event[key] for key in fields} for event in changes],
        "skipped": [
            {"host": event["host"], "service": event["service"], "reason": event["reason"]}
            for event in report.select(outcome.events, "skipped")
        ],
        "observed": list(report.select(outcome.events, "observed")),
        "errors": [asdict(problem) for problem in causes(outcome)],
    }


def causes(outcome: Outcome) -> list[Problem]:
    """What the run told, or else the last words of pyinfra: never nothing."""
    told = [
        Problem(event["what"], event["hint"], event["host"], tuple(event.get("detail", ())))
        for event in outcome.problems()
    ]
    if told or exit_code(outcome, []) == OK:
        return told
    words = tuple(outcome.output.splitlines()[-30:])
    where = "below" if words else "above"
    return [Problem("pyinfra stopped, and gpuhost does not know why", f"its own words are {where}", detail=words)]


def list_changes(changes: Sequence[dict[str, Any]]) -> None:
    """Every change with its reason and its differences, by host and stage."""
    stage = ""
    for change in changes:
        heading = f"[{change['host']}] {change['stage']}"
        if heading != stage:
            print(heading)
            stage = heading
        made = Change.of(change)
        print(f"  {made.action} {made.resource.name}: {made.reason}")
        for difference in made.diff:
            print(f"      {difference.line()}")


def tell(outcome: Outcome, more: Sequence[Problem] = ()) -> None:
    """What a run found and why it failed, on stderr."""
    for event in report.select(outcome.events, "skipped", "gpu"):
        print(f"[{event['host']}] {event['message']}", file=sys.stderr)
    for problem in [*causes(outcome), *more]:
        print("\n".join(problem.lines()), file=sys.stderr)


def counted(count: int, noun: str = "change") -> str:
    """`1 change`, `2 changes`."""
    return f"{count} {noun}{'s' if count != 1 else ''}"


def confirmed(question: str) -> bool:
    """True when a person at the terminal says yes."""
    if not sys.stdin.isatty():
        refuse(Problem("nobody can be asked: stdin is not a terminal", "add --yes to apply without asking"))
        return False
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)  # stdout is data
    try:
        answer = input()
    except EOFError:
        answer = ""
    return answer.strip().lower() in ("y", "yes")


def refuse(*problems: Problem) -> int:
    """Say why not; the exit code."""
    for problem in problems:
        print("\n".join(problem.lines()), file=sys.stderr)
    return ERROR
