"""A secret file that no service reads any more does not stay where it was."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuhost.services import operations
from gpuhost.services.facts import SecretFiles
from gpuhost.services.stacks import Stacks
from tests.unit import sample

FOLDER = "/data/stacks/paint/secrets/painter"


def sh(script: str) -> str:
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, timeout=20).stdout


def test_the_secret_files_of_all_stacks_are_found_and_nothing_else(tmp_path: Path) -> None:
    data = tmp_path / "the data"
    for name in ("a/secrets/x/KEY", "b/secrets/y/KEY", "a/secrets/NOTE", "a/secrets/x/deep/KEY", "a/config/x/KEY"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).touch()
    (data / "a/secrets/x/link").symlink_to(data / "b/secrets/y/KEY")
    there = SecretFiles().read(sh(SecretFiles().command(f"{data}/*/secrets/*/*")).splitlines())
    assert there == [f"{data}/a/secrets/x/KEY", f"{data}/b/secrets/y/KEY"]
    assert sh(SecretFiles().command(f"{tmp_path}/nothing/*/secrets/*/*")) == ""


def found(monkeypatch: pytest.MonkeyPatch, there: list[str]) -> tuple[dict[tuple[str, str], str], list[str]]:
    """(path, action) -> reason of what is to be done with these secret files, and the scripts for it."""
    run = sample.run(None, {"LABEL_HMAC_KEY": "k", "API_TOKEN": "t", "LOGIN_HASH": "$2b$12$x", "LOGIN_USER": "u"})
    told: list[Any] = []

    def write(changes: Any, wanted: Any, observed: Any, backups: str, key: str, first: Any) -> Any:
        told.append((changes, first))
        return iter(())

    def get_fact(fact: type, **asked: Any) -> Any:
        assert fact is SecretFiles and asked["pattern"] == "/data/stacks/*/secrets/*/*"
        return there

    monkeypatch.setattr(operations, "observe", lambda *_: {})
    monkeypatch.setattr(operations, "blocked", lambda _: None)
    monkeypatch.setattr(operations, "reconcile", lambda *_: [])
    monkeypatch.setattr(operations, "_with_secret_diffs", lambda run, stacks, changes, observed: changes)
    monkeypatch.setattr(operations, "write", write)
    monkeypatch.setattr(operations, "host", SimpleNamespace(get_fact=get_fact))
    assert Stacks(run).secret_files("painter").keys() == {f"{FOLDER}/PASSWORD"}
    list(operations.rendered._inner(run))
    [(changes, first)] = told
    scripts = [step.get_raw_value() for step in first if "made-with" not in step.get_raw_value()]
    return {(each.resource.name, each.action): each.reason for each in changes}, scripts


def test_a_secret_file_that_a_service_reads_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    changes, scripts = found(monkeypatch, [f"{FOLDER}/PASSWORD"])
    assert changes == {} and not any("aside" in script for script in scripts)


def test_one_that_none_reads_goes_to_the_backups(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = ["/data/stacks/old/secrets/old/KEY", f"{FOLDER}/KEY"]
    changes, scripts = found(monkeypatch, [*gone, f"{FOLDER}/PASSWORD"])
    assert {key: "goes to the backups" in why for key, why in changes.items()} == {
        (path, "remove"): True for path in gone
    }
    [script] = [each for each in scripts if "aside" in each]
    assert script.endswith(f"aside {gone[0]} {gone[1]}") and "PASSWORD" not in script


def test_what_is_set_aside_is_kept_for_root_alone(tmp_path: Path) -> None:
    file, backups = tmp_path / "a secret" / "KEY", tmp_path / "backups"
    file.parent.mkdir()
    file.write_text("the secret")
    file.chmod(0o640)
    sh(operations._SET_ASIDE.replace("@BACKUPS@", str(backups)) + f"'{file}'")
    assert not file.exists() and file.parent.exists()
    [kept] = [path for path in backups.rglob("*") if path.is_file()]
    assert kept.read_text() == "the secret" and str(kept).endswith(str(file))
    assert (kept.stat().st_mode & 0o777, backups.stat().st_mode & 0o777) == (0o600, 0o700)
