"""Operations where the plan must foresee what the run's own earlier operations do, and what root does where others
may write."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuhost.apt import operations as apt
from gpuhost.apt.facts import AptReading
from gpuhost.catalog.types import Account
from gpuhost.files.facts import FileState
from gpuhost.plan.change import Change
from gpuhost.run.remote import Step
from gpuhost.services import operations as services


class Seen:
    """What an operation announced and would run, given one answer to every fact."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, fact: object, executing: bool = False) -> None:
        self.changes: list[Change] = []
        self.scripts: list[str] = []
        monkeypatch.setattr(module, "host", SimpleNamespace(get_fact=lambda *a, **k: fact))
        monkeypatch.setattr(module, "state", SimpleNamespace(is_executing=executing), raising=False)
        monkeypatch.setattr(module, "carry_out", self._carry_out)

    def _carry_out(self, changes: Sequence[Change], commands: Sequence[Step]) -> Sequence[Step]:
        self.changes = list(changes)
        self.scripts = [command.get_raw_value() for command in commands]
        return []

    def of(self, operation: Any, **arguments: Any) -> list[str]:
        """The subjects of its changes."""
        list(operation._inner(**arguments))
        return [change.resource.name for change in self.changes]


SOURCE = "/etc/apt/sources.list.d/ours.sources"


def index(written: bool) -> dict[str, Any]:
    meta = SimpleNamespace(will_change=written)
    return {"stage": "engine", "subject": "index", "stamp": "/state/apt", "source": SOURCE, "written": meta}


def test_an_index_is_planned_when_its_source_will_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a converged host whose repository's URL changes in the data, the old file is still older than the stamp."""
    seen = Seen(monkeypatch, apt, AptReading())
    assert seen.of(apt.index, **index(written=True)) == ["index"]


def test_an_index_that_failed_last_time_is_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first index of the run reads the source that the failed run left; this one has nothing to do then."""
    seen = Seen(monkeypatch, apt, AptReading(unread=[SOURCE]))
    assert seen.of(apt.index, **index(written=False)) == []
    assert seen.of(apt.index, stage="engine", subject="first", stamp="/state/apt") == ["first"]


def test_in_a_run_the_stamp_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Seen(monkeypatch, apt, AptReading(), True).of(apt.index, **index(written=True)) == []
    seen = Seen(monkeypatch, apt, AptReading(unread=[SOURCE]), True)
    assert seen.of(apt.index, **index(written=True)) == ["index"]
    # A source that cannot be read must not stay: apt is everybody's.
    assert f"rm -f {SOURCE}" in seen.scripts[0]


@pytest.mark.parametrize(
    ("installed", "held", "subjects"),
    [
        ({"a": "1", "b": "1"}, {"a", "b", "other"}, []),
        ({}, set(), ["a", "b"]),
        ({"a": "1", "b": "1"}, {"b"}, ["a"]),
        ({"a": "0.9", "b": "1"}, {"a", "b"}, ["a"]),  # apt drops the hold of what it installs anew
    ],
)
def test_holds_are_planned_as_they_will_be(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], held: set[str], subjects: list[str]
) -> None:
    seen = Seen(monkeypatch, apt, AptReading(installed, held))
    assert seen.of(apt.held, stage="gpu", packages={"a": "1", "b": "1"}, stamp="/state/apt") == subjects


def test_a_key_checked_earlier_vouches_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch, apt, {})
    arguments = {"stage": "engine", "url": "https://apt.example/key", "fingerprint": "A" * 40, "path": "/keys/k.asc"}
    assert seen.of(apt.signing_key, **arguments) == ["/keys/k.asc"]
    script = seen.scripts[0]
    assert script.index("rm -f /keys/k.asc.*") < script.index("mv -f") < script.index(f": > /keys/k.asc.{'A' * 40}")


def test_why_packages_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = AptReading(packages={"curl": "8.14", "toolkit": "1.19.0-1"})
    monkeypatch.setattr(apt, "host", SimpleNamespace(get_fact=lambda fact, **k: reading))
    assert apt.why_missing(["curl", "gpg", "jq"], "/stamp") == "not installed: gpg, jq"
    assert apt.why_missing(["toolkit=1.20.0-1", "base=1.20.0-1"], "/stamp") == (
        "not installed: base; toolkit is 1.19.0-1, not 1.20.0-1"
    )


@pytest.mark.parametrize(
    ("mode", "owner", "reason"),
    [
        ("644", "root", None),
        ("600", "root", "its mode is 600, not 644"),
        ("644", "admin", "its owner is admin:admin, not root:root"),
    ],
)
def test_a_key_that_apt_cannot_read_is_corrected_not_fetched(mode: str, owner: str, reason: str | None) -> None:
    there = {path: FileState("regular file", mode, owner, owner, 1.0, "x") for path in ("/k.asc", "/k.asc.A")}
    found = apt.key_changes("engine", "/k.asc", "/k.asc.A", there)
    assert [(change.action, change.reason) for change in found] == ([("correct", reason)] if reason else [])


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (
            "W: GPG error: https://d.example trixie InRelease: The following signatures were invalid: BADSIG 1",
            "the index of https://d.example is not signed by the expected key",
        ),
        ("E: Failed to fetch https://d.example/P  Hash Sum mismatch", "a package index does not match its signature"),
        ("E: Clearsigned file isn't valid, got 'NOSPLIT'", "a package index does not match its signature"),
        (
            "E: File has unexpected size (3 != 4). Mirror sync in progress?",
            "a package index does not match its signature",
        ),
        (
            "E: The repository 'https://d.example trixie Release' does not have a Release file.",
            "the repository https://d.example trixie Release is not there, or is not signed",
        ),
        ("E: The repository 'https://x y' is not signed.", "the repository https://x y is not there, or is not signed"),
        (
            "E: The repository 'https://x y' no longer has a Release file.",
            "the repository https://x y is not there, or is not signed",
        ),
        (
            "E: Failed to fetch https://d.example/x  Could not resolve 'd.example'",
            "the host cannot resolve d.example",
        ),
        ("E: Failed to fetch https://d.example/x  404  Not Found", "https://d.example/x could not be fetched"),
        ("E: Unable to locate package docker-cee", "no repository has the package docker-cee"),
        ("E: Version '1.0' for 'toolkit' was not found", "no repository has version 1.0 of toolkit"),
        (
            "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem.",
            "an earlier installation of packages was cut off in the middle",
        ),
        ("dpkg: error: cannot write: No space left on device", "the disk is full"),
        (
            "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (apt)",
            "another program has held apt's lock (/var/lib/dpkg/lock-frontend) for ten minutes",
        ),
        ("E: Sub-process /usr/bin/dpkg returned an error code (1)", None),
    ],
)
def test_why_apt_failed(said: str, what: str | None) -> None:
    found = apt.explain(f"Reading package lists...\n{said}\n")
    assert (found and found[0]) == what
    assert found is None or ("\n" not in found[1] and len(found[1]) > 10)


# --- In folders that a service's container writes --------------------------------------------------------------------

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")


@pytest.fixture
def service_data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    os.chown(folder, 10001, 10001)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o001)
    return folder


ACCOUNT = Account(name="svc", uid=10001, gid=10001)


@needs_root
def test_a_seed_is_made_by_the_account_and_no_link_is_followed(
    monkeypatch: pytest.MonkeyPatch, service_data: Path
) -> None:
    """A container that was broken into may put links into its data: root must not write or chown through them."""
    precious = service_data.parent / "precious"
    precious.write_text("root's\n")
    key = service_data / "session-key.txt"
    (service_data / "session-key.txt.new").symlink_to(precious)
    seen = Seen(monkeypatch, services, {})
    assert seen.of(services.seeded, seeds={str(key): "{random_key},{now}"}, account=ACCOUNT) == [str(key)]
    subprocess.run(["sh", "-c", seen.scripts[0]], check=True)
    assert (precious.read_text(), precious.stat().st_uid) == ("root's\n", 0)
    assert (key.stat().st_uid, key.stat().st_mode & 0o777, len(key.read_text())) == (10001, 0o600, 71)
    secret, _, made = key.read_text().partition(",")
    assert len(base64.urlsafe_b64decode(secret)) == 32 and datetime.fromisoformat(made).tzinfo is None


@needs_root
def test_a_seed_is_what_its_text_says(monkeypatch: pytest.MonkeyPatch, service_data: Path) -> None:
    file, text = service_data / "it's $HOME", "a 'quoted' $(id) `id` \\n %s {now}"
    seen = Seen(monkeypatch, services, {})
    assert seen.of(services.seeded, seeds={str(file): text}, account=ACCOUNT) == [str(file)]
    subprocess.run(["sh", "-c", seen.scripts[0]], check=True)
    assert re.fullmatch(re.escape(text).replace(r"\{now\}", r"\d{4}-\d\d-\d\dT[\d:.]+"), file.read_text())


@needs_root
def test_a_folder_of_a_service_is_the_accounts(monkeypatch: pytest.MonkeyPatch, service_data: Path) -> None:
    folder = service_data / "custom_nodes"
    seen = Seen(monkeypatch, services, {})
    assert seen.of(services.own_folders, folders=[str(folder)], account=ACCOUNT) == [str(folder)]
    subprocess.run(["sh", "-c", seen.scripts[0]], check=True)
    assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (10001, 0o755)
    assert (
        Seen(monkeypatch, services, {str(folder): "there"}).of(
            services.own_folders, folders=[str(folder)], account=ACCOUNT
        )
        == []
    )
