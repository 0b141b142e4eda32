"""Operations where the plan must foresee what the run's own earlier operations do, and what root does where others
may write."""

from __future__ import annotations

import base64
import getpass
import hashlib
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuhost.apt import operations as apt
from gpuhost.apt.facts import AptReading, CutOff
from gpuhost.catalog.types import Account
from gpuhost.files.facts import FileState
from gpuhost.files.folders import FolderState
from gpuhost.files.rules import plain
from gpuhost.plan.change import Change, Impact, Resource
from gpuhost.run.remote import Script
from gpuhost.services import operations as services
from gpuhost.services.rules import ServiceStep
from gpuhost.services.stacks import SeedFile, Stacks
from tests.unit import sample


class Seen:
    """What an operation announced and would run, where the facts say this of what they are asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, fact: object, executing: bool = False) -> None:
        self.changes: list[Change] = []
        self.scripts: list[str] = []
        self.fact = fact
        monkeypatch.setattr(module, "host", SimpleNamespace(get_fact=self._get_fact))
        monkeypatch.setattr(module, "state", SimpleNamespace(is_executing=executing), raising=False)
        monkeypatch.setattr(module, "carry_out", self._carry_out)

    def _get_fact(self, _: object, **asked: Any) -> object:
        self.asked = asked
        if isinstance(self.fact, dict) and "paths" in asked:
            return {path: seen for path, seen in self.fact.items() if path in asked["paths"]}
        if isinstance(self.fact, AptReading):
            packages = {name: found for name, found in self.fact.packages.items() if name in asked["packages"]}
            return replace(self.fact, packages=packages)
        return self.fact

    def _carry_out(self, changes: Sequence[Change], commands: Sequence[Script]) -> Sequence[Script]:
        self.changes = list(changes)
        self.scripts = [command.get_raw_value() for command in commands]
        return []

    def of(self, operation: Any, **arguments: Any) -> list[str]:
        """The subjects of its changes."""
        list(operation._inner(**arguments))
        return [change.resource.name for change in self.changes]


SOURCE = "/etc/apt/sources.list.d/gpuhost-ours.sources"
UNREAD = AptReading(unread={SOURCE: "not read since it changed:"})


def index(written: bool) -> dict[str, Any]:
    meta = SimpleNamespace(will_change=written, did_change=lambda: written)
    return {"stage": "engine", "subject": "index", "stamp": "/state/apt", "source": SOURCE, "declared": meta}


@pytest.mark.parametrize("executing", [False, True])
def test_an_index_is_read_when_its_source_is_written(monkeypatch: pytest.MonkeyPatch, executing: bool) -> None:
    """On a converged host whose repository's URL changes in the data, the old file is still older than the stamp."""
    seen = Seen(monkeypatch, apt, AptReading(), executing)
    assert seen.of(apt.index, **index(written=True)) == ["index"]
    assert seen.changes[0].key == ("engine", "apt index", "index", "update")
    assert seen.asked == {"packages": [], "stamp": "/state/apt", "source": SOURCE, "url": ""}
    assert seen.changes[0].reason == "its signing key or its source is written anew"
    assert seen.of(apt.index, **index(written=False)) == []


@pytest.mark.parametrize("executing", [False, True])
def test_an_index_that_failed_last_time_is_read_again(monkeypatch: pytest.MonkeyPatch, executing: bool) -> None:
    seen = Seen(monkeypatch, apt, UNREAD, executing)
    assert seen.of(apt.index, **index(written=False)) == ["index"]
    assert seen.changes[0].reason == f"not read since it changed: {SOURCE}"


def test_an_index_of_all_others_reads_what_apt_itself_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch, apt, UNREAD, True)
    assert seen.of(apt.index, stage="engine", subject="s", stamp="/state/apt") == ["s"]
    assert seen.asked == {"packages": [], "stamp": "/state/apt", "source": "", "url": ""}
    assert '-o Dir::Etc::SourceParts="$parts"  update 2>&1' in seen.scripts[0]
    assert "for source in /etc/apt/sources.list.d/*; do" in seen.scripts[0]


def test_a_source_of_ours_that_is_broken_keeps_apt_from_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first index of a run reads all sources but ours, an index of ours that one alone; what fails is removed."""
    read, fails = tmp_path / "read", tmp_path / "fails"
    folder = tmp_path / "sources.list.d"
    folder.mkdir()
    for name in ("debian.sources", "gpuhost-ours.sources", "gpuhost-other.sources", "mine.list"):
        (folder / name).touch()
    program = f"for word; do case $word in *SourceParts=*) ls ${{word#*=}} > {read};; esac; done; [ ! -e {fails} ]"
    monkeypatch.setattr(apt, "APT", f"sh -c '{program}' sh")
    seen = Seen(monkeypatch, apt, UNREAD, True)

    def run(source: str) -> int:
        seen.of(apt.index, stage="engine", subject="s", stamp=str(tmp_path / "state" / "stamp"), source=source)
        script = seen.scripts[0].replace("/etc/apt/sources.list.d", str(folder)).replace("/run/", f"{tmp_path}/")
        return subprocess.run(["sh", "-c", script], check=False).returncode

    assert run("") == 0 and read.read_text().split() == ["debian.sources", "mine.list"]
    assert (tmp_path / "state" / "stamp").exists()
    ours = str(folder / "gpuhost-ours.sources")
    assert run(ours) == 0 and read.read_text().split() == ["gpuhost-ours.sources"]
    fails.touch()
    assert run(ours) != 0 and sorted(path.name for path in folder.iterdir()) == [
        "debian.sources",
        "gpuhost-other.sources",
        "mine.list",
    ]
    assert run("") != 0 and len(list(folder.iterdir())) == 3


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
    assert {change.key for change in seen.changes} == {("gpu", "package", name, "hold") for name in subjects}
    assert seen.asked == {"packages": ["a", "b"], "stamp": "/state/apt", "install": ()}
    assert seen.scripts == [f"apt-mark hold {' '.join(subjects)}"] or not subjects


def repository(content: str = "Types: deb\n", foreign: Sequence[str] = ()) -> dict[str, Any]:
    checked: dict[str, Any] = {"key_url": "https://apt.example/key", "fingerprint": "A" * 40, "key": "/keys/k.asc"}
    checked |= {"url": "https://apt.example/debian", "foreign": foreign}
    return {"stage": "engine", "source": plain(SOURCE, content), "backups": "/backups", **checked}


def test_a_key_checked_earlier_vouches_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch, apt, {})
    assert seen.of(apt.repository, **repository()) == ["/keys/k.asc", SOURCE]
    assert [change.key for change in seen.changes] == [
        ("engine", "apt key", "/keys/k.asc", "fetch"),
        ("engine", "file", SOURCE, "create"),
    ]
    script = seen.scripts[0]
    assert script.index("rm -f /keys/k.asc.*") < script.index('mv -f "$new/key" /keys/k.asc')
    assert script.index('/key" /keys/k.asc') < script.index(f'mv -f "$new/stamp" /keys/k.asc.{"A" * 40}')


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({}, None),
        ({"mode": "600"}, "the mode is 600, not 644"),
        ({"sha256": "other"}, "the content differs"),
        ({"kind": "symbolic link"}, "a symbolic link is in its place"),
    ],
)
def test_why_a_source_is_written(monkeypatch: pytest.MonkeyPatch, over: dict[str, str], told: str | None) -> None:
    digest = hashlib.sha256(b"Types: deb\n").hexdigest()
    fields = {"kind": "regular file", "mode": "644", "user": "root", "group": "root", "modified_s": 1.0}
    key = FileState(**fields, sha256="k")  # type: ignore[arg-type]
    source = FileState(**{**fields, "sha256": digest, **over})  # type: ignore[arg-type]
    seen = Seen(monkeypatch, apt, {"/keys/k.asc": key, f"/keys/k.asc.{'A' * 40}": key, SOURCE: source})
    assert seen.of(apt.repository, **repository()) == ([SOURCE] if told else [])
    assert [change.reason for change in seen.changes] == ([told] if told else [])


def test_a_file_of_somebodys_is_put_aside_before_ours_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "it's.list"
    file.write_text("new")
    Path(f"{file}.disabled").write_text("old")
    seen = Seen(monkeypatch, apt, {})
    assert seen.of(apt.repository, **repository(foreign=[str(file)])) == ["/keys/k.asc", str(file), SOURCE]
    subprocess.run(["sh", "-c", seen.scripts[1]], check=True)
    assert not file.exists() and Path(f"{file}.disabled").read_text() == "new"
    assert [kept.read_text() for kept in tmp_path.glob("*~")] == ["old"]


def test_a_source_is_written_in_debs_own_form() -> None:
    assert apt.source_text("https://a.example/x", "/", "", "amd64", "/k.asc") == (
        "Types: deb\nURIs: https://a.example/x\nSuites: /\nArchitectures: amd64\nSigned-By: /k.asc\n"
    )


def test_why_packages_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = AptReading(packages={"curl": "8.14", "toolkit": "1.19.0-1"}, download_bytes=7)
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(apt, "host", SimpleNamespace(get_fact=lambda fact, **k: asked.append(k) or reading))
    change = Change("engine", Resource("packages", "base"), "install", "")
    made = apt.installing(change, ["curl", "gpg", "jq"], "/stamp")
    assert made.reason == "not installed: gpg, jq"
    assert made.impact == Impact(download_bytes=7, disk_bytes=None)
    made = apt.installing(change, ["toolkit=1.20.0-1", "base=1.20.0-1"], "/stamp")
    assert made.reason == "not installed: base; toolkit is 1.19.0-1, not 1.20.0-1"
    assert asked[-1] == {
        **{"packages": ["toolkit", "base"], "stamp": "/stamp", "install": ["toolkit=1.20.0-1", "base=1.20.0-1"]}
    }


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


def test_a_key_with_another_content_than_was_checked_is_fetched() -> None:
    fields = ("regular file", "644", "root", "root", 1.0)
    there = {"/k.asc": FileState(*fields, "x"), "/k.asc.A": FileState(*fields, "y")}
    [change] = apt.key_changes("engine", "/k.asc", "/k.asc.A", there)
    assert (change.action, "changed since it was checked" in change.reason) == ("fetch", True)


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


ME = getpass.getuser()  # who may give a file to himself
SEED = "{random_key},{now}"


def test_a_seed_is_made_and_then_the_services(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = tmp_path / "session-key.txt"
    seen = Seen(monkeypatch, services, {})
    assert seen.of(services.seeded, seeds=[SeedFile(str(key), SEED, ME)]) == [str(key)]
    subprocess.run(["sh", "-c", seen.scripts[0]], check=True)
    assert (key.owner(), key.stat().st_mode & 0o777, len(key.read_text())) == (ME, 0o600, 71)
    secret, _, made = key.read_text().partition(",")
    assert len(base64.urlsafe_b64decode(secret)) == 32 and datetime.fromisoformat(made).tzinfo is None


@pytest.mark.parametrize(
    ("there", "action", "reason", "kept"),
    [
        (FolderState("regular file", "600", f"{ME}:{ME}"), None, None, True),
        (FolderState("regular file", "600", "old:old"), "correct", f"its owner is old:old, not {ME}:{ME}", True),
        (FolderState("regular file", "644", f"{ME}:{ME}"), "correct", "its mode is 644, not 600", True),
        (FolderState("regular empty file", "600", f"{ME}:{ME}"), "create", "it is empty", False),
    ],
    ids=["right", "another's", "open", "empty"],
)
def test_a_seed_that_is_there_stays_the_same_file(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    there: FolderState,
    action: str | None,
    reason: str | None,
    kept: bool,
) -> None:
    """A container that runs has it mounted."""
    key = tmp_path / "key"
    key.write_text("kept" if kept else "")
    key.chmod(0o644)
    inode = key.stat().st_ino
    seen = Seen(monkeypatch, services, {str(key): there})
    seen.of(services.seeded, seeds=[SeedFile(str(key), SEED, ME)])
    assert [(change.action, change.reason) for change in seen.changes] == ([(action, reason)] if action else [])
    if action:
        subprocess.run(["sh", "-c", seen.scripts[0]], check=True)
        assert (key.stat().st_ino, key.stat().st_mode & 0o777, key.owner()) == (inode, 0o600, ME)
    assert (key.read_text() == "kept") is kept and key.read_text()


@pytest.mark.parametrize(
    "there", [FolderState("symbolic link", "777", "a:a"), FolderState("regular file", "600", "a:a", linked=True)]
)
def test_a_link_in_the_place_of_a_seed_fails_the_host(monkeypatch: pytest.MonkeyPatch, there: FolderState) -> None:
    said: list[str] = []
    monkeypatch.setattr(services, "fail_host", lambda what, hint: said.append(what) or [])
    seen = Seen(monkeypatch, services, {"/seeds/key": there})
    assert seen.of(services.seeded, seeds=[SeedFile("/seeds/key", SEED, ME)]) == []
    assert said == ["a symbolic link is in the place of the file /seeds/key"]


def test_a_seed_is_what_its_text_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file, text = tmp_path / "it's $HOME", "a 'quoted' $(id) `id` \\n %s {now}"
    seen = Seen(monkeypatch, services, {})
    assert seen.of(services.seeded, seeds=[SeedFile(str(file), text, ME)]) == [str(file)]
    subprocess.run(["sh", "-c", seen.scripts[0]], check=True)
    assert re.fullmatch(re.escape(text).replace(r"\{now\}", r"\d{4}-\d\d-\d\dT[\d:.]+"), file.read_text())


@needs_root
def test_a_folder_of_a_service_is_the_accounts(monkeypatch: pytest.MonkeyPatch, service_data: Path) -> None:
    folder = service_data / "custom_nodes"
    seen = Seen(monkeypatch, services, {})
    assert seen.of(services.own_folders, folders={str(folder): ACCOUNT}) == [str(folder)]
    subprocess.run(["sh", "-c", seen.scripts[0]], check=True)
    assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (10001, 0o755)
    again = Seen(monkeypatch, services, {str(folder): "there"})
    assert again.of(services.own_folders, folders={str(folder): ACCOUNT}) == []


# --- A paused service -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        (["unhealthy 0", "unhealthy 0", "healthy 0"], 3),  # Docker's word for a pause, until the next check
        (["unhealthy 5"], 1),  # its checks do fail: that is for the verification to say
        ([""], 1),  # it has no health check
    ],
)
def test_what_verifies_a_woken_service_does_not_read_the_health_of_a_pause(
    tmp_path: Path, said: list[str], asked: int
) -> None:
    run = sample.run()
    step = services._command(run, Stacks(run), ServiceStep("unpause", "api", "id1"))
    (tmp_path / "said").write_text("".join(f"{line}\n" for line in said))
    docker = f"""#!/bin/sh
echo "$1" >> {tmp_path}/asked
[ "$1" = unpause ] || {{ head -n1 {tmp_path}/said; sed -i 1d {tmp_path}/said; }}
"""
    for name, code in {"docker": docker, "sleep": "#!/bin/sh\n"}.items():
        (tmp_path / name).write_text(code)
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", step.get_raw_value()], env=environment, check=True)
    assert (tmp_path / "asked").read_text().split() == ["unpause", *["inspect"] * asked]


# --- dpkg cut off, locks held -----------------------------------------------------------------------------------------


def fakes(folder: Path, **programs: str) -> dict[str, str]:
    """An environment in which these programs come first."""
    for name, text in {"sleep": "", **programs}.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "HOST": str(folder)}


def test_a_dpkg_that_was_cut_off_is_a_change_that_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch, apt, ["a", "b", "c", "d", "e"], True)
    assert seen.of(apt.repaired, stage="engine") == ["dpkg"]
    assert seen.changes[0].reason == "an earlier installation was cut off: a, b, c, d and more"
    assert "dpkg --force-confdef --force-confold --configure -a" in seen.scripts[0]
    assert Seen(monkeypatch, apt, [], True).of(apt.repaired, stage="engine") == []


def test_which_packages_were_cut_off(tmp_path: Path) -> None:
    rows = "ii \\tfine\nrc \\tgone\niU \\tunpacked\niF \\thalf\niW \\tawaits\nit \\tpending\nhi \\theld\n"
    environment = fakes(tmp_path, dpkg_query=f"printf '{rows}'")
    updates = tmp_path / "updates"
    updates.mkdir()
    script = CutOff().command().replace("/var/lib/dpkg/updates", str(updates))

    def found() -> list[str]:
        done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=False)
        return CutOff().read(done.stdout.splitlines())

    assert found() == ["unpacked", "half", "awaits", "pending"]
    (updates / "0001").touch()
    assert found()[-1] == "a journal of dpkg"


@pytest.mark.parametrize(
    ("dpkg", "query", "code", "said"),
    [
        ("exit 0", "echo 'ii  fine'", 0, ""),
        (
            '[ -e "$HOST/free" ] || { touch "$HOST/free"; echo "dpkg: error: dpkg frontend lock was locked"; exit 2; }',
            "",
            0,
            "",
        ),
        ("echo 'its script says no'; exit 1", "", 1, "cannot be configured: its script says no"),
        ("exit 0", "echo 'iH  broken'", 1, "these packages are installed by half: broken"),
    ],
    ids=["mended", "somebody works", "it fails", "by half"],
)
def test_the_repair_waits_for_others_and_tells_what_it_cannot(
    tmp_path: Path, dpkg: str, query: str, code: int, said: str
) -> None:
    environment = fakes(tmp_path, dpkg=dpkg, dpkg_query=query)
    done = subprocess.run(
        ["sh"], input=apt._REPAIR, env=environment, capture_output=True, text=True, check=False, timeout=20
    )
    assert done.returncode == code and said in done.stderr


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (
            "E: Held packages were changed and -y was used without --allow-change-held-packages.",
            "a package that somebody holds stands in the way",
        ),
        (
            "E: Unable to correct problems, you have held broken packages.",
            "a package that somebody holds stands in the way",
        ),
        ("The following packages have unmet dependencies:", "packages on the host do not fit together"),
    ],
)
def test_packages_that_others_hold(text: str, what: str) -> None:
    found = apt.explain(text)
    assert found is not None and found[0] == what


def test_the_lock_of_the_indexes_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """apt itself waits for dpkg's only."""
    held = """
[ -e "$HOST/free" ] || {
  touch "$HOST/free"; echo 'E: Could not get lock /var/lib/apt/lists/lock. It is held by process 9' >&2; exit 100; }
echo ok >> "$HOST/updated"
"""
    environment = fakes(tmp_path, apt_get=held)
    seen = Seen(monkeypatch, apt, AptReading(unread={"/etc/apt/sources.list": "not read since it changed:"}), True)
    seen.of(apt.index, stage="engine", subject="apt index", stamp=str(tmp_path / "stamp"))
    script = seen.scripts[0].replace("/run/gpuhost-apt", f"{tmp_path}/apt")
    done = subprocess.run(
        ["sh"], input=script, env=environment, capture_output=True, text=True, check=False, timeout=20
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "updated").read_text() == "ok\n" and (tmp_path / "stamp").exists()
