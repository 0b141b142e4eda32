"""A run of pyinfra itself on this machine, in this process: what is announced, refused, done and reported."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyinfra
import pytest
from pyinfra.api.command import FunctionCommand, StringCommand
from pyinfra.api.config import Config
from pyinfra.api.connect import connect_all, disconnect_all
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.inventory import Inventory
from pyinfra.api.operation import OperationMeta, add_op, operation
from pyinfra.api.operations import run_ops
from pyinfra.api.state import State
from pyinfra.context import ctx_host, ctx_state
from pyinfra.operations import files, server

from gpuhost.errors import Cause
from gpuhost.plan import report
from gpuhost.plan.change import Change, Resource
from gpuhost.run import data as data_names
from gpuhost.run import session
from gpuhost.run.remote import Script, last_line, program_message
from gpuhost.run.session import Commands, builtin, carry_out, failing

Event = dict[str, Any]


class Run:
    """One run against this machine; `allowed`: the plan's events, None for a run without one; `data`: of `--data`."""

    def __init__(self, folder: Path, plan_only: bool = False, allowed: list[Event] | None = None, **data: str) -> None:
        self.report = folder / "report.jsonl"
        self.report.unlink(missing_ok=True)
        data |= {data_names.REPORT_DATA: str(self.report)}
        if allowed is not None:
            path = folder / "allow.json"
            path.write_text(json.dumps(report.allow_list(allowed)))
            data[data_names.ALLOW_DATA] = str(path)
        self.plan_only = plan_only
        self.state = State(Inventory((["@local"], data)), Config())

    def go(self, *operations: Callable[[State], object]) -> list[Event]:
        """Prepare, then unless it is a plan Execute; the report's events."""
        session._current = None
        with ctx_state.use(self.state):
            connect_all(self.state)
            for prepare in operations:
                prepare(self.state)
            if not self.plan_only:
                with suppress(PyinfraError):  # it ends with one when no host is left
                    run_ops(self.state)
            disconnect_all(self.state)
        return report.read(self.report)


@pytest.fixture(autouse=True)
def one_run() -> Iterator[None]:
    yield
    session._current = None
    ctx_state.reset()


@operation()
def touched(path: str, fault: str = "") -> Commands:
    """A file that is there: the smallest operation of ours."""
    changes = [] if Path(path).exists() else [Change("layout", Resource("file", path), "create", "it does not exist")]
    yield from carry_out(changes, [Script(fault or f"touch {path}")])


def touch(path: Path, fault: str = "") -> Callable[[State], object]:
    return lambda state: add_op(state, touched, name=f"layout | {path.name}", path=str(path), fault=fault)


def kinds(events: list[Event]) -> list[str]:
    return [event["event"] for event in events]


def test_a_plan_announces_and_does_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    [event] = Run(tmp_path, plan_only=True).go(touch(path))
    assert event == {
        "event": "change",
        "host": "@local",
        "phase": "plan",
        "source": "own",
        "stage": "layout",
        "resource": {"kind": "file", "name": str(path)},
        "action": "create",
        "reason": "it does not exist",
        "diff": [],
        "text_diff": [],
        "scope": "",
        "impact": None,
    }
    assert not path.exists()
    assert (tmp_path / "report.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("plan_only", [True, False])
def test_what_this_run_found_is_known_to_later_operations(tmp_path: Path, plan_only: bool) -> None:
    path = tmp_path / "file"
    Run(tmp_path, plan_only=plan_only).go(touch(path))
    assert session._current
    assert session._current.finds("@local", Resource("file", str(path)), "correct", "create")
    assert not session._current.finds("@local", Resource("file", str(path)), "correct")
    assert not session._current.finds("another", Resource("file", str(path)), "create")
    assert not session._current.finds("@local", Resource("folder", str(path)), "create")


def test_nothing_to_do_is_nothing_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    run = Run(tmp_path)
    assert run.go(touch(path)) == []
    [meta] = [data.operation_meta for host in run.state.inventory for data in run.state.ops[host].values()]
    assert not meta.did_change()


def test_what_was_planned_is_done_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "file"
    planned = Run(tmp_path, plan_only=True).go(touch(path))
    events = Run(tmp_path, allowed=planned).go(touch(path))
    assert path.exists()
    performed = [event for event in events if event["event"] == "performed"]
    assert [event["resource"]["name"] for event in performed] == [str(path)]
    assert [event["phase"] for event in events if event["event"] == "change"] == ["plan", "apply"]
    assert "problem" not in kinds(events)


def test_what_was_done_is_reported_when_its_operation_ends(tmp_path: Path) -> None:
    """Who watches the run sees it then, and not at its end."""
    run, seen = Run(tmp_path), list[list[str]]()

    def look(state: object, host: object) -> bool:
        seen.append(kinds(report.read(run.report)))
        return True

    @operation()
    def looks() -> Commands:
        yield FunctionCommand(look, [], {})

    run.go(touch(tmp_path / "file"), lambda state: add_op(state, looks, name="x | looks"))
    assert seen == [["change", "change", "performed"]]


def test_what_is_done_is_logged_as_it_will_be_and_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Run(tmp_path, plan_only=True).go(touch(tmp_path / "file"))
    assert "will: " in caplog.text and "doing: " not in caplog.text and str(tmp_path / "file") in caplog.text
    Run(tmp_path).go(touch(tmp_path / "file"))
    assert "doing: " in caplog.text


def test_what_was_not_planned_fails_the_host_before_it_acts(tmp_path: Path) -> None:
    first, drifted, after = (tmp_path / name for name in ("first", "drifted", "after"))
    drifted.touch()
    planned = Run(tmp_path, plan_only=True).go(touch(first), touch(drifted), touch(after))
    drifted.unlink()  # the host changes between plan and apply
    run = Run(tmp_path, allowed=planned)
    events = run.go(touch(first), touch(drifted), touch(after))
    assert [path.exists() for path in (first, drifted, after)] == [True, False, False]
    assert len(run.state.failed_hosts) == 1
    [problem] = [event for event in events if event["event"] == "problem"]
    assert problem["what"] == (
        f"the host changed after the plan was made: `layout: create {drifted}: it does not exist` was not planned"
    )
    assert problem["hint"] == "run the plan again and look at what it says now"
    assert [event["resource"]["name"] for event in events if event["event"] == "failed"] == [str(drifted)]


def test_an_empty_plan_allows_nothing_but_no_plan_allows_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    Run(tmp_path, allowed=[{"event": "host", "host": "@local"}]).go(touch(path))
    assert not path.exists()
    Run(tmp_path).go(touch(path))
    assert path.exists()


FAULTS = {
    "a program of ours": (
        'echo "error: it broke" >&2; echo "hint: mend it" >&2; exit 3',
        ("it broke", "mend it"),
    ),
    "another program": ("echo first; echo 'cannot open x' >&2; exit 1", ("cannot open x", "what it printed says more")),
    "silence": ("exit 9", ("the command failed without a word", "what it printed says more")),
}


@pytest.mark.parametrize(("script", "told"), FAULTS.values(), ids=FAULTS)
def test_a_failure_is_told_once_with_its_cause(tmp_path: Path, script: str, told: tuple[str, str]) -> None:
    events = Run(tmp_path).go(touch(tmp_path / "file", script))
    assert [(event["what"], event["hint"]) for event in events if event["event"] == "problem"] == [told]
    assert "failed" in kinds(events) and "performed" not in kinds(events)


@pytest.mark.parametrize(
    ("script", "detail"),
    [
        ("seq 30; echo 'cannot open x' >&2; exit 1", [*map(str, range(20, 31)), "cannot open x"]),
        ("seq 3; echo 'error: it broke' >&2; echo 'hint: what it printed says more' >&2; exit 1", ["1", "2", "3"]),
        ("seq 3; echo 'error: it broke' >&2; echo 'hint: mend it' >&2; exit 1", []),
        ("echo 'cannot open x' >&2; exit 1", []),
    ],
    ids=["the end of what it printed", "a program of ours that speaks of it", "one that knows better", "one line"],
)
def test_what_a_program_printed_stands_by_its_failure(tmp_path: Path, script: str, detail: list[str]) -> None:
    events = Run(tmp_path).go(touch(tmp_path / "file", f"{{ {script}; }} 2>&1"))
    assert [event["detail"] for event in events if event["event"] == "problem"] == [detail]


def test_stdin_reaches_the_script_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret, path = "very-secret-value", tmp_path / "file"

    @operation()
    def written() -> Commands:
        yield from carry_out(
            [Change("layout", Resource("file", str(path)), "write", "it differs")],
            [Script(f"cat > {path}", stdin=secret + "\n")],
        )

    events = Run(tmp_path).go(lambda state: add_op(state, written, name="layout | written"))
    assert path.read_text() == secret + "\n"
    assert secret not in json.dumps(events) and secret not in caplog.text


def test_failing_fails_this_host_with_a_sentence(tmp_path: Path) -> None:
    @operation()
    def refused() -> Commands:
        yield failing("it cannot be", "make it be", ["last", "words"])

    run = Run(tmp_path)
    events = run.go(lambda state: add_op(state, refused, name="x | refused"))
    assert [(event["what"], event["hint"], event["host"]) for event in events] == [
        ("it cannot be", "make it be", "@local")
    ]
    assert events[0]["detail"] == ["last", "words"]
    assert len(run.state.failed_hosts) == 1


@pytest.mark.parametrize("in_the_plan", [True, False])
def test_a_host_that_cannot_be_is_left_at_once(tmp_path: Path, in_the_plan: bool) -> None:
    """A plan runs no command: it must fail the host itself."""

    @operation()
    def impossible() -> Commands:
        if in_the_plan or pyinfra.state.is_executing:
            yield from session.fail_host("it cannot be", "make it be")
        else:
            yield StringCommand("true")

    run, path = Run(tmp_path), tmp_path / "after"
    with suppress(PyinfraError) if in_the_plan else nullcontext():  # no host is left: pyinfra ends
        run.go(lambda state: add_op(state, impossible, name="x | impossible"), touch(path))
    events = report.read(run.report)
    assert [(event["what"], event["hint"], event["host"]) for event in events if event["event"] == "problem"] == [
        ("it cannot be", "make it be", "@local")
    ]
    assert len(run.state.failed_hosts) == 1 and not path.exists()
    assert ("change" in kinds(events)) is not in_the_plan  # what comes after it is not planned any more


def test_a_plan_draws_no_command(tmp_path: Path) -> None:
    def commands() -> Iterator[Script]:
        raise AssertionError("a secret would be resolved here")
        yield

    @operation()
    def lazy() -> Commands:
        yield from carry_out([Change("secrets", Resource("secret", "X"), "generate", "no source has it")], commands())

    events = Run(tmp_path, plan_only=True).go(lambda state: add_op(state, lazy, name="secrets | lazy"))
    assert kinds(events) == ["change"]


@pytest.mark.parametrize("asked", ["", "/srv/models"])
def test_what_a_command_line_asks_for(tmp_path: Path, asked: str) -> None:
    seen: list[tuple[str, str]] = []

    @operation()
    def looks() -> Commands:
        seen.append((session.import_folder(), session.asked_logs()))
        yield StringCommand("true")

    data = {data_names.IMPORT_DATA: asked, data_names.LOGS_DATA: asked} if asked else {}
    Run(tmp_path, True, None, **data).go(lambda state: add_op(state, looks, name="x | looks"))
    assert seen == [(asked, asked)]


def test_an_operation_that_a_host_has_not_ends_without_it(tmp_path: Path) -> None:
    """A host that nobody reaches has none; the others' are reported."""
    run = Run(tmp_path)
    data = {**run.state.inventory.get_host("@local").data.dict(), "ssh_hostname": "127.0.0.1", "ssh_port": 1}
    run.state = State(Inventory((["@local", "gone"], data)), Config())
    events = run.go(touch(tmp_path / "file"))
    assert [(each["host"], each["event"]) for each in events] == [("@local", "change")] * 2 + [("@local", "performed")]


@pytest.mark.parametrize(
    ("asked", "plan_only", "allowed", "shown"),
    [
        ({}, True, None, ["changed"]),
        ({data_names.DIFFS_DATA: "all"}, True, None, ["all"]),
        ({data_names.DIFFS_DATA: "all"}, False, None, ["all", ""]),
        ({data_names.DIFFS_DATA: "all"}, True, [], [""]),
    ],
    ids=["a plan", "a plan of all files", "a run without a plan", "a run with a plan"],
)
def test_what_changes_in_files_is_told_by_a_plan_alone(
    tmp_path: Path, asked: dict[str, str], plan_only: bool, allowed: list[Event] | None, shown: list[str]
) -> None:
    seen: list[str] = []

    @operation()
    def looks() -> Commands:
        seen.append(session.text_diffs())
        yield StringCommand("true")

    Run(tmp_path, plan_only, allowed, **asked).go(lambda state: add_op(state, looks, name="x | looks"))
    assert seen == shown


# --- pyinfra's built-in operations, as one change each --------------------------------------------------------------

BUILTIN = Change("engine", Resource("package", "gcc"), "install", "it is missing")


def shell(command: str, explain: session.Explain | None = None) -> Callable[[State], object]:
    def prepare(state: State) -> OperationMeta:
        [host] = state.inventory
        with ctx_host.use(host):
            return builtin(BUILTIN, server.shell(name="engine | package", commands=[command]), explain)

    return prepare


def test_a_builtin_is_announced_and_reported(tmp_path: Path) -> None:
    planned = Run(tmp_path, plan_only=True).go(shell("true"))
    assert [(event["event"], event["source"], event["reason"]) for event in planned] == [
        ("change", "builtin", "it is missing")
    ]
    events = Run(tmp_path, allowed=planned).go(shell("true"))
    assert len([event for event in events if event["event"] == "performed"]) == 1


def test_why_a_builtin_is_needed_is_asked_of_the_host(tmp_path: Path) -> None:
    """What it says by itself is the same for every damage."""

    def prepare(state: State) -> OperationMeta:
        [host] = state.inventory
        with ctx_host.use(host):
            return builtin(
                BUILTIN,
                server.shell(name="engine | package", commands=["true"]),
                ask=lambda change: replace(change, reason="gcc is 12, not 14"),
            )

    planned = Run(tmp_path, plan_only=True).go(prepare)
    assert [event["reason"] for event in planned] == ["gcc is 12, not 14"]
    events = Run(tmp_path, allowed=planned).go(prepare)
    assert [each["action"] for each in events if each["event"] == "performed"] == ["install"]


def test_a_builtin_that_was_not_planned_is_refused_before_it_acts(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    events = Run(tmp_path, allowed=[]).go(shell(f"touch {trace}"))
    assert not trace.exists()
    assert kinds(events) == ["change", "problem", "failed"]
    assert "was not planned" in events[1]["what"]


def test_a_builtin_that_finds_nothing_to_do_needs_no_plan(tmp_path: Path) -> None:
    def present(state: State) -> OperationMeta:
        [host] = state.inventory
        with ctx_host.use(host):
            folder = files.directory(name="layout | folder", path=str(tmp_path))
            return builtin(Change("layout", Resource("folder", str(tmp_path)), "create", "no such folder"), folder)

    assert Run(tmp_path, allowed=[]).go(present) == []


def test_a_builtin_that_fails_is_explained(tmp_path: Path) -> None:
    def explain(text: str) -> Cause | None:
        return Cause("the disk is full", "free space") if "No space" in text else None

    events = Run(tmp_path).go(shell("echo 'No space left' >&2; exit 1", explain))
    assert [(event["what"], event["hint"]) for event in events if event["event"] == "problem"] == [
        ("`engine | package gcc`: the disk is full", "free space")
    ]
    events = Run(tmp_path).go(shell("exit 1", explain))
    assert [event["what"] for event in events if event["event"] == "problem"] == [
        "`engine | package gcc`: the command failed"
    ]


# --- What a failed command said --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("noise\nerror: one\nhint: do this\n", ("one", "do this")),
        ("error: first\nhint: a\nerror: last\nhint: b", ("last", "b")),
        ("[@local] error: with a host\n[@local] hint: c", ("with a host", "c")),
        ("error: no hint", ("no hint", "what it printed says more")),
        ("an error: in a sentence", None),
        ("", None),
    ],
)
def test_program_message(text: str, found: tuple[str, str] | None) -> None:
    assert program_message(text) == found


def test_last_line() -> None:
    assert last_line("one\n\n  two  \n\n") == ("two", "what it printed says more")
    assert last_line("") == ("the command failed without a word", "what it printed says more")


def test_the_same_change_may_read_differently() -> None:
    one, other = Change("a", Resource("k", "b"), "c", "a reason"), Change("a", Resource("k", "b"), "c", "another")
    assert one.key == other.key
    assert one.line() == "a: c b: a reason"
