"""A host that cannot be reached: pyinfra's and paramiko's own words, told as one sentence with a hint."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import paramiko
import pytest
from paramiko.client import SSHClient
from pyinfra import logger
from pyinfra.api.config import Config
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.connectors.sshuserclient.client import StrictPolicy

from gpuhost.errors import UserError
from gpuhost.project import PROJECT
from gpuhost.run import entry
from gpuhost.run.entry import check_command_line, explain_connection
from tests.unit import sample

KEYS = [paramiko.ECDSAKey.generate() for _ in range(2)]
REACH = "check that the host is up, that sshd runs, and `ssh_hostname` and `ssh_port` in the inventory"
OTHERS: dict[str, Any] = {"exclude": (), "group_data": ()}
LOGIN = "check `ssh_user` and `ssh_key` in the inventory; the key's .pub must be in authorized_keys on the host"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pyinfra_state: State) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    sample.write_group_data(tmp_path, {"all": sample.data()})
    (tmp_path / "inventory.py").write_text('hosts = ["gpu1"]\n')
    monkeypatch.setattr(entry, "_site", None)
    handlers = list(logger.handlers)
    yield tmp_path
    logger.handlers[:] = handlers


def enter(project: Path, limit: tuple[str, ...] | None = None, data: Sequence[str] = ()) -> Path:
    """What config.py does; the report's path."""
    report = project / "report.jsonl"
    context = click.Context(click.Command("pyinfra"))
    told = [f"gpuhost_report={report}", *data]
    context.params = {"inventory": "inventory.py", "data": told, "limit": limit, **OTHERS}
    with context:
        check_command_line()
    return report


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def strict() -> Exception:
    try:
        StrictPolicy().missing_host_key(SSHClient(), "gpu1.example", KEYS[0])
    except paramiko.SSHException as error:
        return error
    raise AssertionError


FAILURES = {
    "wrong key": (
        lambda: paramiko.AuthenticationException("Authentication failed."),
        {"ssh_user": "admin"},
        "SSH login is refused for user admin",
        LOGIN,
    ),
    "wrong key of nobody": (
        lambda: paramiko.AuthenticationException("Authentication failed."),
        {},
        "SSH login is refused",
        LOGIN,
    ),
    "another host key": (
        lambda: paramiko.BadHostKeyException("gpu1.example", *KEYS),
        {},
        "the SSH host key of gpu1.example is not the one in known_hosts",
        "if the host was rebuilt, `gpuhost trust gpu1` shows the old and the new fingerprint, and asks",
    ),
    "unknown host key": (
        strict,
        {},
        "the SSH host key of gpu1.example is not known",
        "`gpuhost trust gpu1` shows its fingerprint, and asks",
    ),
    "unknown name": (
        lambda: socket.gaierror(-2, "Name or service not known"),
        {},
        "the host's name cannot be resolved ([Errno -2] Name or service not known)",
        "check `ssh_hostname`",
    ),
    "nobody listens": (
        lambda: ConnectionRefusedError(111, "Connection refused"),
        {},
        "no SSH connection: [Errno 111] Connection refused",
        REACH,
    ),
    "no answer": (lambda: TimeoutError("timed out"), {}, "no SSH connection: timed out", REACH),
    "not SSH": (
        lambda: paramiko.SSHException("Error reading SSH protocol banner"),
        {},
        "no SSH connection: Error reading SSH protocol banner",
        REACH,
    ),
    "hung up": (lambda: EOFError("end"), {}, "no SSH connection: end", REACH),
}


@pytest.mark.parametrize(("failure", "data", "what", "hint"), FAILURES.values(), ids=FAILURES)
def test_a_failed_connection_is_explained_once(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failure: Any,
    data: dict[str, str],
    what: str,
    hint: str,
) -> None:
    def connect(client: Any, *_: Any, **__: Any) -> None:
        client._ssh_config = {}
        raise failure()

    monkeypatch.setattr("pyinfra.connectors.ssh.SSHClient.connect", connect)
    report = enter(project)
    [host] = State(Inventory((["gpu1"], data)), Config()).inventory
    host.connect()
    told, *found = events(report)
    assert (told["event"], told["names"]) == ("hosts", ["gpu1"])
    assert [(event["event"], event["host"], event["what"], event["hint"]) for event in found] == [
        ("problem", "gpu1", what, hint)
    ]
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error:", "hint:"))] == [
        f"error: [gpu1] {what}",
        f"hint: {hint}",
    ]


@pytest.mark.parametrize(
    ("inventory", "named"),
    [
        ("inventory.py", ""),
        ("lab/inventory.py", " -i lab"),
        ("my lab/inventory.py", " -i 'my lab'"),
        ("lab/others.py", " -i lab/others.py"),
        ("others.py", " -i others.py"),
        ("../elsewhere/inventory.py", " -i {tmp_path}/elsewhere"),
        ("@local", ""),
    ],
)
def test_an_inventory_is_named_as_from_where_the_person_stands(tmp_path: Path, inventory: str, named: str) -> None:
    here = tmp_path / "here"
    for path in ("inventory.py", "lab/inventory.py", "my lab/inventory.py", "lab/others.py", "others.py"):
        (here / path).parent.mkdir(parents=True, exist_ok=True)
        (here / path).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/inventory.py").touch()
    path = inventory if inventory == "@local" else str(Path(os.path.normpath(here / inventory)))
    assert entry.named(path, here) == named.format(tmp_path=tmp_path)


def test_a_hint_names_the_inventory_that_was_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that it can be typed as it stands."""
    above = project.parent
    monkeypatch.setattr("pyinfra.connectors.ssh.SSHClient.connect", lambda *_, **__: (_ for _ in ()).throw(strict()))
    report = enter(project, data=[f"gpuhost_cwd={above}"])
    [host] = State(Inventory((["gpu1"], {})), Config()).inventory
    host.connect()
    hint = f"`gpuhost trust gpu1 -i {project.name}` shows its fingerprint, and asks"
    assert events(report)[-1]["hint"] == hint and f"hint: {hint}" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["[gpu1] Connected", "[gpu1] Error: executed 0/1 commands", ""])
def test_other_lines_are_not_explained(line: str) -> None:
    assert explain_connection(line, "gpu1") is None


def test_a_limit_that_matches_nothing_is_a_mistake(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    enter(project, ("gpu1", "gpu*", "inventory"))
    with pytest.raises(SystemExit):
        enter(project, ("gpu2",))
    assert capsys.readouterr().err.splitlines() == [
        "error: --limit `gpu2` names no host and no group of the inventory",
        "hint: did you mean `gpu1`?",
    ]


def test_bad_data_ends_it_before_any_host_is_contacted(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample.write_group_data(project, {"all": sample.data({"engine_source": "podman", "services.api.port": 0})})
    with pytest.raises(SystemExit) as caught:
        enter(project)
    assert caught.value.code == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: group_data/all.py: `engine_source`: input should be 'docker' or 'distro', not `'podman'`",
        "hint: it is one of 'docker' or 'distro'",
        "error: group_data/all.py: `services.api.port`: input should be greater than or equal to 1, not `0`",
        "hint: the least is 1",
    ]
    assert [event["event"] for event in events(project / "report.jsonl")] == ["problem", "problem"]


def test_a_tracked_file_of_secrets_ends_it_before_any_host_is_contacted(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, whatever hosts have it together; nobody asks of hosts that are left out."""
    (project / "inventory.py").write_text('hosts = ["gpu1", "gpu2", ("gpu3", {"secrets_dir": "others"})]\n')
    for path in (".env", "others/gpu3.env"):
        (project / path).parent.mkdir(exist_ok=True)
        (project / path).write_text("GIVEN=x\n")
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "add", "--force", "."], check=True)
    with pytest.raises(SystemExit) as caught:
        enter(project, ("gpu1", "gpu2"))
    assert caught.value.code == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: .env holds secrets and is tracked by git",
        "hint: git rm --cached .env, then change what it held",
    ]


def test_what_was_read_is_there_for_the_deploy(project: Path) -> None:
    with pytest.raises(UserError, match=r"config\.py was not read"):
        entry.site()
    enter(project)
    assert entry.site().catalog("gpu1").services["painter"].memory == "28g"


def test_data_without_a_value_is_a_mistake(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = click.Context(click.Command("pyinfra"))
    context.params = {"inventory": "inventory.py", "data": ["engine_source"], "limit": None, **OTHERS}
    with context, pytest.raises(SystemExit):
        check_command_line()
    assert capsys.readouterr().err.splitlines() == [
        "error: --data `engine_source` has no value",
        "hint: write it as --data NAME=VALUE",
    ]


@pytest.mark.parametrize("unwanted", [False, True])
def test_modules_are_compiled_once_unless_the_user_does_not_want_it(tmp_path: Path, unwanted: bool) -> None:
    """pyinfra would have them compiled in every run."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1" * unwanted}
    command = [sys.executable, "-m", "pyinfra", "no-such-inventory.py", "deploy.py", "--dry"]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "no-such-inventory.py" in done.stderr
    ours = tmp_path.joinpath(*PROJECT.parts[1:], "gpuhost")
    assert bool(list(ours.rglob("entry.*.pyc"))) is not unwanted


@pytest.mark.parametrize(("program", "times"), [("pyinfra", "many"), ("gpuhost.run.program", "few")])
def test_what_was_imported_is_not_looked_through_and_what_comes_later_is_freed(
    tmp_path: Path, program: str, times: str
) -> None:
    """As `gpuhost` starts it, not while it is imported either: some 30 times until here, else some 170."""
    (tmp_path / "inventory.py").write_text('hosts = ["@local"]\n')
    times_so_far = "'few' if gc.get_stats()[0]['collections'] < 90 else 'many'"
    deploy = f"import gc; print('collects', gc.isenabled(), gc.get_freeze_count() > 10_000, {times_so_far})\n"
    (tmp_path / "deploy.py").write_text(deploy)
    command = [sys.executable, "-m", program, str(tmp_path / "inventory.py"), str(tmp_path / "deploy.py"), "--dry"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and f"collects True True {times}" in done.stdout.splitlines()
