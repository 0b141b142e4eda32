"""A seed is made anew when the secret that it goes with has another value, and only then."""

from __future__ import annotations

import getpass
import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuhost.files.facts import FileState
from gpuhost.plan.change import Change
from gpuhost.run.host_run import HostRun
from gpuhost.services import operations
from gpuhost.services.stacks import Renewal, SeedFile, Stacks
from tests.unit import sample

SECRETS = {"LABEL_HMAC_KEY": "key", "API_TOKEN": "token", "LOGIN_HASH": "$2b$12$current", "LOGIN_USER": "someone"}
RECORD = "/data/stacks/paint/config/painter/session-key.txt.made-with"
SEED = "/data/services/painter/seeds/session-key.txt"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_with(**secrets: str) -> HostRun:
    return sample.run(None, SECRETS | secrets)


def files_of(run: HostRun) -> dict[str, FileState]:
    """A host on which every file is as this run wants it."""
    stacks, key = Stacks(run), run.secrets.file_key()
    return {
        spec.path: FileState(
            "regular file",
            spec.mode,
            spec.user,
            spec.group,
            1.0,
            hashlib.sha256(((key if spec.secret else "") + spec.content()).encode()).hexdigest(),
        )
        for stack in run.stacks
        for spec in stacks.files(stack)
    }


def rendered(monkeypatch: pytest.MonkeyPatch, run: HostRun, there: dict[str, FileState]) -> tuple[Any, list[str]]:
    """(the change of the record or None, the scripts that come before the files) of `stacks | files`, but for those
    that ask compose."""
    seen: dict[str, Any] = {}

    def write(changes: list[Change], wanted: Any, observed: Any, backups: str, key: str, first: Any) -> list[Any]:
        seen.update(changes={change.resource.name: change for change in changes}, first=list(first))
        return []

    monkeypatch.setattr(operations, "host", SimpleNamespace(get_fact=lambda *a, **k: ""))
    monkeypatch.setattr(operations, "observe", lambda wanted, key, owners: there)
    monkeypatch.setattr(operations, "write", write)
    monkeypatch.setattr(operations, "_with_secret_diffs", lambda run, stacks, changes, observed: changes)
    list(operations.rendered._inner(run))
    scripts = [step.get_raw_value() for step in seen["first"]]
    return seen["changes"].get(RECORD), [script for script in scripts if "docker compose" not in script]


def test_with_the_same_secret_nothing_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with()
    assert rendered(monkeypatch, run, files_of(run)) == (None, [])
    # A password is no matter of the seed, nor is another secret.
    assert rendered(monkeypatch, run_with(API_TOKEN="other"), files_of(run)) == (None, [])


def test_with_another_value_the_seed_is_made_anew_first(monkeypatch: pytest.MonkeyPatch) -> None:
    there = files_of(run_with())
    change, [script] = rendered(monkeypatch, run_with(LOGIN_HASH="$2b$12$other"), there)
    assert (change.action, change.scope) == ("write", "rendered")
    assert change.reason == f"its LOGIN_HASH is another one: {SEED} is made anew"
    assert SEED in script and "current" not in script and "other" not in script


def test_what_nobody_recorded_is_made_anew_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with()
    there = files_of(run)
    del there[RECORD]
    change, scripts = rendered(monkeypatch, run, there)
    assert (change.action, change.reason) == ("create", f"no LOGIN_HASH is recorded: {SEED} is made anew")
    assert len(scripts) == 1


def test_a_record_with_another_mode_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with()
    there = files_of(run)
    there[RECORD] = replace(there[RECORD], mode="644")
    change, scripts = rendered(monkeypatch, run, there)
    assert (change.reason, scripts) == ("the mode is 644, not 600", [])


def test_the_record_says_nothing_of_the_value_and_its_service_reads_it_at_its_start() -> None:
    one, other = (
        next(spec for spec in Stacks(run).read_at_start("painter") if spec.path == RECORD)
        for run in (run_with(), run_with(LABEL_HMAC_KEY="another key"))
    )
    assert one.content() != other.content()  # keyed
    assert "current" not in one.content() and (one.mode, one.user) == ("600", "root")


def test_the_new_seed_is_the_same_file(tmp_path: Path) -> None:
    """A container that runs has it mounted."""
    path = tmp_path / "key"
    path.write_text("old and much longer than a new one " * 9)
    inode = path.stat().st_ino
    renewal = Renewal(SeedFile(str(path), "{random_key},{now}", getpass.getuser()), "LOGIN_HASH")
    step = operations._as_root([operations._seed(renewal.seed)])
    subprocess.run(["sh", "-c", step.get_raw_value()], check=True)
    assert (path.stat().st_mode & 0o777, path.stat().st_ino, len(path.read_text())) == (0o600, inode, 71)
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


KILLED = [
    f"{moment} {program}"
    for program in ("dd", "truncate", "sync", "mv", "chown", "chmod")
    for moment in ("before", "after")
]


@pytest.mark.parametrize("old", [None, "the old key of another time" * 3])
@pytest.mark.parametrize("killed", KILLED)
def test_a_seed_is_never_half_made_or_empty(tmp_path: Path, killed: str, old: str | None) -> None:
    """The script is killed just before, or just after, one of its programs did its work."""
    moment, program = killed.split()
    programs, path = tmp_path / "bin", tmp_path / "seeds" / "key"
    programs.mkdir()
    path.parent.mkdir()
    if old:
        path.write_text(old)
    lines = ['kill -9 "$PPID"; exit 1'] if moment == "before" else [f'/usr/bin/{program} "$@"', 'kill -9 "$PPID"']
    (programs / program).write_text("\n".join(["#!/bin/sh", *lines, ""]))
    (programs / program).chmod(0o755)
    new = "new" * 27
    step = operations._as_root([operations._seed(SeedFile(str(path), new, getpass.getuser()))])
    environment = {"PATH": f"{programs}:/usr/bin:/bin"}
    for _ in range(2):  # whatever it left, the next run makes it
        subprocess.run(["sh", "-c", step.get_raw_value()], env=environment, check=False)
        assert (path.read_text() if path.exists() else None) in (old, new)
        environment = {"PATH": "/usr/bin:/bin"}
    assert path.read_text() == new
    assert [each.name for each in path.parent.iterdir()] == ["key"]
