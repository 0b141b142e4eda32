"""One pyinfra run: what it announces, what it may do, what it did.

Operations call `carry_out`; tasks wrap pyinfra's built-in operations in `builtin`. With an allow-list (from a plan),
an own operation that finds a change which was not planned fails its host before it acts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pyinfra import logger
from pyinfra.api.command import FunctionCommand, PyinfraCommand, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import OperationMeta
from pyinfra.api.output import format_text
from pyinfra.api.state import BaseStateCallback, State
from pyinfra.context import host, state

from gpuhost.errors import WORDS, Cause, Problem
from gpuhost.plan.change import Change, Resource
from gpuhost.plan.report import Report
from gpuhost.run import stop
from gpuhost.run.connection import lost
from gpuhost.run.data import ALLOW_DATA, DIFFS_DATA, IMPORT_DATA, LOGS_DATA, ONLY_DATA, REPORT_DATA, REVISIONS_DATA
from hostside.wire import printable

SAID_LINES = 12  # of what a program printed that failed
Commands = Generator[PyinfraCommand, None, None]
Explain = Callable[[str], Cause | None]


class Session:
    """What belongs to the run as a whole; `current()` makes it at the first call."""

    def __init__(self, report: Report, allowed: dict[str, list[list[str]]] | None) -> None:
        self.report = report
        self.allowed = allowed
        self.announced: dict[tuple[str, str], list[Change]] = {}  # (host, operation) -> its changes in Execute
        self.builtins: dict[tuple[str, str], tuple[Change, Explain | None]] = {}  # operation -> the change that it is
        self.explained: set[str] = set()  # hosts whose failure has been explained
        self.found: set[tuple[str, Resource, str]] = set()  # (host, resource, action) of every own change, at any phase
        self.revisions: dict[str, Any] = {}  # host -> what the hub said of models when the plan was made
        self.reported: set[tuple[str, str]] = set()  # (host, operation) whose outcome stands in the report

    def allows(self, host_name: str, change: Change) -> bool:
        """True when there is no allow-list, or the change stands in it."""
        return self.allowed is None or list(change.key) in self.allowed.get(host_name, [])

    def finds(self, host_name: str, resource: Resource, *actions: str) -> bool:
        """True when an own operation of this run, in its plan or now, found that one of these must be done."""
        return any((host_name, resource, action) in self.found for action in actions)

    def planned_actions(self, host_name: str, stage: str) -> set[tuple[str, str]] | None:
        """(name, action) of what the allow-list holds for a stage; None without one."""
        if self.allowed is None:
            return None
        listed = self.allowed.get(host_name, [])
        return {(name, action) for where, _, name, action in listed if where == stage}


_current: Session | None = None


def current() -> Session:
    """The session of this process; reads the report's and the allow-list's path from `--data` at the first call."""
    global _current
    if _current is None:
        allow = host.data.get(ALLOW_DATA)
        allowed = json.loads(Path(allow).read_text()) if allow else None
        _current = Session(Report(host.data.get(REPORT_DATA)), allowed)
        if revisions := host.data.get(REVISIONS_DATA):
            _current.revisions = json.loads(Path(revisions).read_text())
        state.add_callback_handler(_Outcome())
    return _current


class _Outcome(BaseStateCallback):
    """Reports what became of each operation."""

    @staticmethod
    def operation_end(run: State, op_hash: str) -> None:
        for target in run.inventory:
            _ended(run, target, op_hash)
        stop.leave(run)

    @staticmethod
    def operation_host_start(run: State, target: Host, op_hash: str) -> None:
        if (target.name, op_hash) in current().builtins:
            stop.begins(target.name, op_hash)

    @staticmethod
    def host_disconnect(run: State, target: Host) -> None:
        """pyinfra is silent about the end of an operation after which it stops: reported when it hangs up."""
        for op_hash in list(run.ops[target]):
            _ended(run, target, op_hash)


def _ended(run: State, target: Host, op_hash: str) -> None:
    stop.ends(target.name, op_hash)
    data, session = run.ops[target].get(op_hash), current()
    if data is None or not data.operation_meta.is_complete() or (target.name, op_hash) in session.reported:
        return
    session.reported.add((target.name, op_hash))
    _outcome(target, op_hash, data.operation_meta, ", ".join(run.op_meta[op_hash].names))


def _outcome(target: Host, op_hash: str, meta: OperationMeta, name: str) -> None:
    session = current()
    changes = session.announced.pop((target.name, op_hash), [])
    builtin_change, explain = session.builtins.get((target.name, op_hash), (None, None))
    if builtin_change is not None and (meta.did_change() or meta.did_error()):
        changes = [builtin_change]
    for change in changes:
        event = "performed" if meta.did_succeed() else "failed"
        session.report.add(event, target.name, **_fields(change))
    if meta.did_error() and target.name not in session.explained:
        cause = lost(target) or (explain(f"{meta.stdout}\n{meta.stderr}") if explain else None)
        what, hint = cause or Cause("the command failed", WORDS)
        if builtin_change is not None:  # pyinfra's name is that of all hosts on which the operation has this place
            name = f"{builtin_change.stage} | {builtin_change.resource.kind} {builtin_change.resource.name}"
        report_problem(Problem(f"`{name}`: {what}", hint, target.name), f"{meta.stdout}\n{meta.stderr}")


def _fields(change: Change) -> dict[str, Any]:
    return asdict(change)


def only() -> frozenset[str] | None:
    """The stages to which `--data gpuhost_only=a,b` limits this run; None: all that belong to a deploy."""
    asked = host.data.get(ONLY_DATA)
    return None if asked is None else frozenset(str(asked).split(","))


def at(stage: str) -> None:
    """Tell the person who watches a run of `gpuhost` where the current host is; plain pyinfra has its own lines."""
    if host.data.get(REPORT_DATA) and not state.is_executing:
        host.log(f"looking: {stage}")


def import_folder() -> str:
    """The folder of `gpuhost models import`."""
    return str(host.data.get(IMPORT_DATA) or "")


def text_diffs() -> Literal["", "changed", "all"]:
    """Of which files a plan shows what changes in them: those that people know, or all; of none while a run acts."""
    if state.is_executing or current().allowed is not None:
        return ""
    return "all" if host.data.get(DIFFS_DATA) == "all" else "changed"


def asked_logs() -> str:
    """What `gpuhost logs` asks for, as text."""
    return str(host.data.get(LOGS_DATA) or "")


def report_problem(problem: Problem, said: str = "") -> None:
    """Report a problem and show it to the person who watches. `said`: what the program printed that failed: who watches
    pyinfra has read it, who reads the report is given its end where the hint speaks of it."""
    session = current()
    session.explained.add(problem.host)
    detail = [*problem.detail, *(_end(said) if WORDS in problem.hint else [])]
    session.report.add("problem", problem.host, what=problem.what, hint=problem.hint, detail=detail)
    for line in problem.lines():
        logger.error(format_text(line, "red" if line.startswith("error") else "yellow"))


def _end(said: str) -> list[str]:
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(("error: ", "hint: "))]
    return lines[-SAID_LINES:] if len(lines) > 1 else []  # one alone is the sentence


def note(event: str, message: str, **fields: Any) -> None:
    """Report a fact about the host that is no change: a skipped service, an address."""
    current().report.add(event, host.name, message=message, **fields)
    host.log(printable(message))


def failing(what: str, hint: str, detail: Sequence[str] = ()) -> PyinfraCommand:
    """A command that fails this host, and no other, with a sentence, a hint and, below them, a log's end."""

    def fail(state: State, host: Host) -> bool:
        report_problem(Problem(what, hint, host.name, tuple(detail)))
        return False

    return FunctionCommand(fail, [], {})


def fail_host(what: str, hint: str) -> Commands:
    """Fail this host, and no other: a plan says it at once, for it never runs a command."""
    if state.is_executing:
        yield failing(what, hint)
    else:
        report_problem(Problem(what, hint, host.name))
        state.fail_hosts({host})


def _refused(draw: Callable[[], Iterable[PyinfraCommand]], change: Change) -> Commands:
    """Instead of the commands that `draw` gives: nothing when there are none, else a refusal."""
    for _ in draw():
        yield _unplanned(change)
        return


def _unplanned(change: Change) -> PyinfraCommand:
    return failing(
        f"the host changed after the plan was made: `{change.line()}` was not planned",
        "run the plan again and look at what it says now",
    )


def announce(changes: Sequence[Change]) -> PyinfraCommand | None:
    """Report changes before they are made; the command that refuses them when they were not planned, else None."""
    session = current()
    phase = "apply" if state.is_executing else "plan"
    for change in changes:
        session.found.add((host.name, change.resource, change.action))
        session.report.add("change", host.name, phase=phase, source="own", **_fields(change))
        host.log(printable(f"{'doing' if state.is_executing else 'will'}: {change.line()}"))
        for difference in change.untold:
            host.log(printable(f"    {difference.line()}"))
        for line in change.text_diff if state.config.DIFF else ():
            host.log(printable(f"    {line}"))
    if not state.is_executing:
        return None
    session.announced[(host.name, str(host.current_op_hash))] = list(changes)
    stop.begins(host.name, str(host.current_op_hash))
    for change in changes:
        if not session.allows(host.name, change):
            return _unplanned(change)
    return None


def carry_out(changes: Sequence[Change], commands: Iterable[PyinfraCommand]) -> Commands:
    """The one way in which an own operation acts: nothing to change, nothing yielded; else report, check, act.

    `commands` is only drawn from while executing: a plan neither resolves a secret nor renders a command.
    """
    if not changes or host in state.failed_hosts:  # a fact that could not be read fails the host and goes on
        return
    refusal = announce(changes)
    if refusal is not None:
        yield refusal
    elif state.is_executing:
        yield from _until_stopped(commands)
    else:
        yield StringCommand("true")


def _until_stopped(commands: Iterable[PyinfraCommand]) -> Commands:
    """The commands as long as nobody stops the run: each may be the last, as after a death of the run."""
    for command in commands:
        if stop.asked():
            yield FunctionCommand(_stopped, [], {})
            return
        yield command


def _stopped(state: State, host: Host) -> bool:
    """Ends this host's turn without a word: `gpuhost` says why."""
    current().explained.add(host.name)
    return False


def builtin(
    change: Change, meta: OperationMeta, explain: Explain | None = None, ask: Callable[[Change], Change] | None = None
) -> OperationMeta:
    """Take one of pyinfra's built-in operations into the report, as one change; `explain` tells why it failed, `ask`
    gives the change with why it is needed and what it costs, when that must be asked of the host.

    With an allow-list it is refused like an own one: at its first command, before that is run.
    """
    session = current()
    session.builtins[(host.name, meta._hash)] = (change, explain)
    if not session.allows(host.name, change):
        data = state.get_op_data_for_host(host, meta._hash)
        data.command_generator = partial(_refused, data.command_generator, change)
    if state.should_check_for_changes() and not state.is_executing and meta.will_change:
        change = ask(change) if ask else change
        session.builtins[(host.name, meta._hash)] = (change, explain)
        session.report.add("change", host.name, phase="plan", source="builtin", **_fields(change))
        host.log(printable(f"will: {change.line()}"))
    return meta
