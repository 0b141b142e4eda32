"""Units of ours: what differs, what is done about it, and what systemctl says of them."""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuhost.files.facts import FilesState, FileState
from gpuhost.files.rules import plain
from gpuhost.plan.report import Report
from gpuhost.run.session import Session
from gpuhost.systemd import operations
from gpuhost.systemd.facts import AtBoot, UnitsState, UnitState
from gpuhost.systemd.rules import Unit, reconcile

FOLDER = "/etc/systemd/system"
SERVICE = Unit(plain(f"{FOLDER}/ours.service", "[Service]\n"), runs=False)
SOCKET = Unit(plain(f"{FOLDER}/ours.socket", "[Socket]\n"))
RUNS = UnitState(enabled=True, active=True)


def right(*units: Unit) -> dict[str, FileState]:
    """Their files as they should be."""
    return {
        unit.file.path: FileState(
            "regular file", "644", "root", "root", 1.0, hashlib.sha256(unit.file.content().encode()).hexdigest()
        )
        for unit in units
    }


def changes(files: dict[str, FileState], states: dict[str, UnitState]) -> list[tuple[str, str, str]]:
    found = reconcile("stacks", [SERVICE, SOCKET], files, states)
    for change in found:  # a file by its path, a unit by its name
        kind = "unit" if change.action == "enable" else "file"
        assert change.key == ("stacks", kind, change.resource.name, change.action)
        assert change.resource.name.startswith(FOLDER) is (kind == "file")
    return [(change.action, change.resource.name.rpartition("/")[2], change.reason) for change in found]


def test_nothing_differs() -> None:
    """The service is started by its socket: whether it runs is nobody's concern."""
    files = right(SERVICE, SOCKET)
    assert changes(files, {"ours.service": UnitState(), "ours.socket": RUNS}) == []
    assert changes(files, {"ours.service": UnitState(active=True), "ours.socket": RUNS}) == []


def test_what_differs_is_named() -> None:
    files, edited = right(SERVICE, SOCKET), FileState("regular file", "644", "root", "root", 1.0, "0" * 64)
    assert changes({}, {}) == [
        ("create", "ours.service", "it does not exist"),
        ("create", "ours.socket", "it does not exist"),
        ("enable", "ours.socket", "it does not run at boot"),
    ]
    assert changes({**files, SERVICE.file.path: edited}, {"ours.socket": RUNS}) == [
        ("write", "ours.service", "the content differs")
    ]
    assert changes(files, {"ours.socket": UnitState(active=True)}) == [
        ("enable", "ours.socket", "it does not run at boot")
    ]
    assert changes(files, {"ours.socket": UnitState(enabled=True)}) == [("enable", "ours.socket", "it does not run")]


def test_a_file_that_systemd_has_not_read_is_a_change() -> None:
    """A run that dies between the file and the reload must not lose the reload."""
    files = right(SERVICE, SOCKET)
    states = {"ours.service": UnitState(stale=True), "ours.socket": RUNS}
    assert changes(files, states) == [("write", "ours.service", "systemd has not read it since it changed")]


def test_one_that_is_started_anyway_and_ran_in_the_plan_is_no_surprise() -> None:
    """Between plan and turn, Docker's restart stopped it."""
    files = right(SERVICE, SOCKET)
    for active in (True, False):
        states = {"ours.service": UnitState(stale=True), "ours.socket": UnitState(enabled=True, active=active)}
        assert changes(files, states) == [("write", "ours.service", "systemd has not read it since it changed")]


def scripts(
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, FileState],
    states: dict[str, UnitState],
    plan: list[list[str]] | None = None,
) -> list[str]:
    """What the operation would run; in the apply of a plan, when there is one."""
    found: list[str] = []
    session = Session(Report(None), None if plan is None else {"gpu1": plan})
    monkeypatch.setattr(operations, "current", lambda: session)
    monkeypatch.setattr(operations, "state", SimpleNamespace(is_executing=plan is not None))

    def get_fact(fact: Any, **asked: list[str]) -> dict[str, Any]:
        if fact is FilesState:
            return {path: seen for path, seen in files.items() if path in asked["paths"]}
        return {name: seen for name, seen in states.items() if name in asked["units"]}

    monkeypatch.setattr(operations, "host", SimpleNamespace(name="gpu1", get_fact=get_fact))
    monkeypatch.setattr(
        operations,
        "carry_out",
        lambda changes, steps: found.extend(step.get_raw_value() for step in steps if changes) or (),
    )
    made = operations.units._inner(stage="stacks", wanted=[SERVICE, SOCKET], backups="/backups")
    found[:0] = [step.get_raw_value() for step in made]
    return found


def test_all_stop_before_a_new_file_is_read_and_start_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    write, reload, start = scripts(monkeypatch, right(SERVICE), {"ours.socket": RUNS})
    assert f"put {FOLDER}/ours.socket" in write and "ours.service" not in write
    assert reload == "systemctl stop ours.service ours.socket 2>/dev/null; systemctl daemon-reload"
    assert start == "systemctl enable --quiet ours.socket && systemctl start ours.socket"


def test_one_that_only_does_not_run_is_started_without_what_it_would_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd refuses to start a socket while its service works."""
    files = right(SERVICE, SOCKET)
    assert scripts(monkeypatch, files, {"ours.socket": RUNS}) == []
    stop, start = scripts(monkeypatch, files, {"ours.socket": UnitState(enabled=True)})
    assert stop == "systemctl stop ours.service"
    assert start == "systemctl enable --quiet ours.socket && systemctl start ours.socket"


def test_what_dockers_planned_restart_stopped_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    files, stopped = right(SERVICE, SOCKET), {"ours.socket": UnitState(enabled=True)}
    restart = ["engine", "engine", "dockerd", "restart"]
    assert scripts(monkeypatch, files, stopped, [restart]) == ["systemctl start ours.socket"]
    assert scripts(monkeypatch, files, {"ours.socket": RUNS}, [restart]) == []
    # Without that, or when it does not start at boot either, it is a change like any other, planned or refused.
    other = ["systemctl stop ours.service", "systemctl enable --quiet ours.socket && systemctl start ours.socket"]
    assert scripts(monkeypatch, files, stopped, []) == other
    assert scripts(monkeypatch, files, {"ours.socket": UnitState()}, [restart]) == other
    assert scripts(monkeypatch, files, stopped, [restart, ["stacks", "unit", "ours.socket", "enable"]]) == other


def test_a_file_that_is_right_and_was_not_read_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    files = right(SERVICE, SOCKET)
    write, *_ = scripts(monkeypatch, files, {"ours.service": UnitState(stale=True), "ours.socket": RUNS})
    assert f"own {FOLDER}/ours.service" in write and f"put {FOLDER}/ours.service" not in write


def test_what_the_plan_found_unread_is_read_though_an_earlier_step_let_systemd_read_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """systemd reads the files of all units at once; what was planned is then done, and said to be done."""
    files, read = right(SERVICE, SOCKET), {"ours.service": UnitState(), "ours.socket": RUNS}
    planned = ["stacks", "file", SERVICE.file.path, "write"]
    own, reload, start = scripts(monkeypatch, files, read, [planned])
    assert f"own {SERVICE.file.path}" in own and f"put {SERVICE.file.path}" not in own
    assert "daemon-reload" in reload and "start ours.socket" in start
    assert scripts(monkeypatch, files, read, []) == [] == scripts(monkeypatch, files, read)
    for other in (["layout", *planned[1:]], [*planned[:3], "create"], ["stacks", "file", "/other", "write"]):
        assert scripts(monkeypatch, files, read, [other]) == []


WANTED = Unit(plain(f"{FOLDER}/wanted.service", "[Service]\n[Install]\nWantedBy=multi-user.target docker.service\n"))


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        ({"multi-user.target", "docker.service"}, None),
        ({"multi-user.target", "docker.service", "mine.target"}, None),
        ({"multi-user.target"}, "docker.service would not start it"),
        (set(), "docker.service, multi-user.target would not start it"),
    ],
)
def test_one_of_its_links_that_is_gone_is_named(there: set[str], reason: str | None) -> None:
    """systemd calls a unit enabled that has any of them."""
    state = UnitState(enabled=True, active=True, wanted_by=frozenset(there))
    found = reconcile("stacks", [WANTED], right(WANTED), {"wanted.service": state})
    assert [(each.key, each.reason) for each in found] == (
        [(("stacks", "unit", "wanted.service", "enable"), reason)] if reason else []
    )
    off = replace(state, enabled=False)
    [change] = reconcile("stacks", [WANTED], right(WANTED), {"wanted.service": off})
    assert change.reason == "it does not run at boot"
    idle = replace(WANTED, runs=False)
    assert reconcile("stacks", [idle], right(idle), {"wanted.service": state}) == []


def test_who_starts_a_unit_is_read_from_its_links(tmp_path: Path) -> None:
    for name, unit in (("a.target", "x.service"), ("b.service", "x.service"), ("c.target", "y.service")):
        (tmp_path / f"{name}.wants").mkdir()
        (tmp_path / f"{name}.wants" / unit).symlink_to("/nowhere")
    (tmp_path / "d.target.wants").mkdir()
    (tmp_path / "d.target.wants" / "x.service").touch()  # no link
    script = UnitsState().command(["x.service", "z.service"]).replace("/etc/systemd/system", str(tmp_path))
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, timeout=20)
    links = [line for line in done.stdout.splitlines() if "WantedBy=" in line]
    assert UnitsState().read(links) == {"x.service": UnitState(wanted_by=frozenset({"a.target", "b.service"}))}


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("ActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=no", UnitState(True, True, False)),
        ("ActiveState=activating\nUnitFileState=enabled\nNeedDaemonReload=yes", UnitState(True, True, True)),
        ("ActiveState=inactive\nUnitFileState=disabled\nNeedDaemonReload=no", UnitState()),
        ("ActiveState=failed\nUnitFileState=enabled-runtime\nNeedDaemonReload=no", UnitState()),
        ("ActiveState=inactive\nUnitFileState=\nNeedDaemonReload=no", UnitState()),  # one that systemd does not know
    ],
)
def test_what_systemctl_says(tmp_path: Path, said: str, state: UnitState) -> None:
    """The fact's own script, with a systemctl that answers like the real one."""
    fake = tmp_path / "systemctl"
    fake.write_text(f"#!/bin/sh\n[ \"$1\" = show ] || exit 1\ncat <<'END'\n{said}\nEND\n")
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    fact = UnitsState()
    done = subprocess.run(
        ["sh", "-c", fact.command(["a.service", "b@1.socket"])],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert fact.read(done.stdout.splitlines()) == {"a.service": state, "b@1.socket": state}


def test_what_starts_at_boot(tmp_path: Path) -> None:
    """`is-enabled` fails for what does not; nothing is said of a unit that systemd does not know."""
    words = {"a.service": "enabled", "b.path": "disabled", "c.service": "masked", "d.service": "static"}
    words |= {"gone.service": "not-found", "old.service": ""}  # as newer and older ones say it
    for unit, word in words.items():
        (tmp_path / unit).write_text(f"{word}\n" if word else "")
    fake = tmp_path / "systemctl"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = is-enabled ] || exit 64\ncat "$(dirname "$0")/$2"; '
        'echo "Failed to get unit file state" >&2; [ "$2" = a.service ]\n'
    )
    fake.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", AtBoot().command(list(words))],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    known = {unit: word for unit, word in words.items() if word not in ("", "not-found")}
    assert AtBoot().read(done.stdout.splitlines()) == known and len(known) == 4
