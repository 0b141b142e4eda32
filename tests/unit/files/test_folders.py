"""Folders: what is wrong with one is told, and only that is put right."""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyinfra.api.command import PyinfraCommand

from gpuhost.catalog.types import Account
from gpuhost.files import folders as module
from gpuhost.files.folders import Folder, FoldersState, FolderState, reconcile
from gpuhost.files.owners import NOBODY, Owners

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
WANTED = Folder("/data", "755", "root")
RIGHT = FolderState("directory", "755", "root:root")


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A folder that another account reaches: pytest closes those above its own."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.mark.parametrize(
    ("there", "action", "reason"),
    [
        (None, "create", "it does not exist"),
        (FolderState("directory", "777", "root:root"), "correct", "its mode is 777, not 755"),
        (FolderState("directory", "755", "admin:root"), "correct", "its owner is admin:root, not root:root"),
        (
            FolderState("directory", "700", "admin:admin"),
            "correct",
            "its mode is 700, not 755, its owner is admin:admin, not root:root",
        ),
    ],
)
def test_what_is_wrong_is_told(there: FolderState | None, action: str, reason: str) -> None:
    [change] = reconcile("layout", [WANTED], {"/data": there} if there else {})
    assert (change.key, change.reason) == (("layout", "folder", "/data", action), reason)


def test_each_folder_is_looked_at() -> None:
    wanted = [Folder("/a", "755", "root"), Folder("/b", "755", "root"), Folder("/c", "755", "root")]
    there = {"/b": RIGHT, "/c": replace(RIGHT, mode="700")}
    assert [change.key[2:] for change in reconcile("layout", wanted, there)] == [("/a", "create"), ("/c", "correct")]


def test_a_folder_that_a_group_may_read() -> None:
    wanted = Folder("/data", "750", "root", "svc")
    assert reconcile("layout", [wanted], {"/data": FolderState("directory", "750", "root:svc")}) == []
    [change] = reconcile("layout", [wanted], {"/data": FolderState("directory", "700", "svc:svc")})
    assert change.reason == "its mode is 700, not 750, its owner is svc:svc, not root:svc"


def test_a_folder_whose_things_change_hands_with_it() -> None:
    wanted = Folder("/data", "750", "new", whole=True)
    [change] = reconcile("stacks", [wanted], {"/data": FolderState("directory", "750", "old:old")})
    assert change.reason == "its owner is old:old, not new:new, and so is what it holds"
    [change] = reconcile("stacks", [wanted], {"/data": FolderState("directory", "755", "new:new")})
    assert change.reason == "its mode is 755, not 750"


def test_a_right_one_is_left_alone() -> None:
    assert reconcile("layout", [WANTED], {"/data": RIGHT, "/other": RIGHT}) == []


def read(*paths: Path) -> dict[str, FolderState]:
    script = FoldersState().command([str(path) for path in paths])
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return FoldersState().process(done.stdout.splitlines())


def test_one_question_reads_them_all(tmp_path: Path) -> None:
    one, link, file = tmp_path / "a | b", tmp_path / "link", tmp_path / "file"
    one.mkdir(mode=0o700)
    link.symlink_to(one)
    file.touch()
    found = read(one, link, tmp_path / "absent", file)
    assert set(found) == {str(one), str(link), str(file)}
    assert found[str(one)].mode == "700" and not found[str(one)].linked
    if os.geteuid() == 0:  # a link of root's is what it points to
        assert found[str(link)] == replace(found[str(one)], linked=True)
    assert found[str(file)].kind == "regular empty file"


def run(monkeypatch: pytest.MonkeyPatch, wanted: list[Folder], owners: Owners = NOBODY) -> list[PyinfraCommand]:
    def get_fact(fact: object, paths: list[str]) -> dict[str, FolderState]:
        return read(*map(Path, paths))

    monkeypatch.setattr(module, "host", SimpleNamespace(get_fact=get_fact))
    monkeypatch.setattr(module, "carry_out", lambda changes, commands: commands if changes else [])
    return list(module.folders._inner(stage="layout", wanted=wanted, owners=owners))


@needs_root
def test_a_folder_of_an_account_that_is_gone_is_right_once_that_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    os.chown(tmp_path, 54321, 54321)
    wanted = [Folder(str(tmp_path), f"{tmp_path.stat().st_mode & 0o7777:o}", "svc")]
    assert run(monkeypatch, wanted, Owners.of([Account(name="svc", uid=54321, gid=54321)])) == []
    assert run(monkeypatch, wanted, Owners.of([Account(name="svc", uid=54320, gid=54321)])) != []


@needs_root
def test_made_corrected_and_then_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir(mode=0o777)
    (wrong / "kept").write_text("kept")
    wanted = [Folder(str(wrong), "2775", "root"), Folder(f"{wrong}/in it's/deep", "700", "root")]
    [step] = run(monkeypatch, wanted)
    subprocess.run(["sh", "-c", step.get_raw_value()], check=True)  # type: ignore[attr-defined]
    assert {path: (state.mode, state.owner) for path, state in read(wrong, wrong / "in it's/deep").items()} == {
        str(wrong): ("2775", "root:root"),
        f"{wrong}/in it's/deep": ("700", "root:root"),
    }
    assert (wrong / "kept").read_text() == "kept"
    assert run(monkeypatch, wanted) == []


@pytest.mark.parametrize(
    ("mode", "owner", "roots"),
    [
        *((mode, "root:root", True) for mode in ("755", "700", "1755", "2755", "711", "555")),
        *((mode, "root:root", False) for mode in ("775", "757", "777", "1777", "722", "2775", "702")),
        ("755", "root:svc", True),
        ("755", "svc:root", False),
    ],
)
def test_where_nobody_else_can_put_anything(mode: str, owner: str, roots: bool) -> None:
    assert module.FolderState("directory", mode, owner).is_roots is roots


def test_a_file_in_the_place_of_a_folder_fails_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said: list[tuple[str, str]] = []
    monkeypatch.setattr(module, "fail_host", lambda what, hint: said.append((what, hint)) or [])
    run(monkeypatch, [Folder(str(tmp_path / "file"), "755", "root")])
    assert said[0][0] == f"a regular empty file is in the place of the folder {tmp_path / 'file'}"


@needs_root
def test_root_follows_no_link_in_a_folder_of_the_accounts(monkeypatch: pytest.MonkeyPatch, everybodys: Path) -> None:
    """Who may write there puts a link to a folder of root's in the place of one that we correct."""
    account = pwd.getpwuid(1).pw_name  # `daemon`, which has a group of its name on Debian and Ubuntu
    models, precious = everybodys / "models", everybodys / "precious"
    wanted = [Folder(str(models), "2775", account), Folder(str(models / "vae"), "2775", account)]
    [step] = run(monkeypatch, wanted)
    subprocess.run(["sh", "-c", step.get_raw_value()], check=True)  # type: ignore[attr-defined]
    assert run(monkeypatch, wanted) == []
    precious.mkdir(mode=0o755)
    (models / "vae").rmdir()
    (models / "vae").symlink_to(precious)
    said: list[str] = []
    monkeypatch.setattr(module, "fail_host", lambda what, hint: said.append(what) or [])
    assert run(monkeypatch, wanted) == [] and said == [f"a symbolic link is in the place of the folder {models}/vae"]
    # And when the link comes between the look and the act:
    subprocess.run(["sh", "-c", step.get_raw_value()], check=False)  # type: ignore[attr-defined]
    assert (precious.stat().st_uid, precious.stat().st_mode & 0o7777) == (0, 0o755)
    (models / "vae").unlink()
    (precious / "file").touch(mode=0o600)
    os.link(precious / "file", models / "vae")
    subprocess.run(["sh", "-c", step.get_raw_value()], check=False)  # type: ignore[attr-defined]
    assert ((precious / "file").stat().st_uid, (precious / "file").stat().st_mode & 0o7777) == (0, 0o600)


@needs_root
def test_a_folder_of_another_owner_in_one_of_the_accounts_is_given_back(
    monkeypatch: pytest.MonkeyPatch, everybodys: Path
) -> None:
    account = pwd.getpwuid(1).pw_name
    disk, models = everybodys / "disk", everybodys / "models"
    disk.mkdir()
    models.symlink_to(disk)  # another disk: whoever made that link answers for it
    wanted = [Folder(str(models), "2775", account), Folder(str(models / "v a"), "2775", account)]
    (models / "v a").mkdir(mode=0o700)
    [step] = run(monkeypatch, wanted)
    subprocess.run(["sh", "-c", step.get_raw_value()], check=True)  # type: ignore[attr-defined]
    assert ((disk / "v a").stat().st_uid, (disk / "v a").stat().st_mode & 0o7777) == (1, 0o2775)
    assert run(monkeypatch, wanted) == []


@needs_root
@pytest.mark.parametrize("owner", ["account", "root"])
def test_a_link_in_a_folder_that_was_the_accounts_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, owner: str
) -> None:
    """The folder becomes root's in this very run: what the account put there before must not be taken for ours."""
    account = pwd.getpwuid(1)
    outputs, precious = tmp_path / "outputs", tmp_path / "precious"
    outputs.mkdir()
    precious.mkdir(mode=0o755)
    (outputs / "painter").symlink_to(precious)
    os.chown(outputs, account.pw_uid, account.pw_gid)
    os.chown(outputs / "painter", *((1, 1) if owner == "account" else (0, 0)), follow_symlinks=False)
    wanted = [Folder(str(outputs), "755", "root"), Folder(str(outputs / "painter"), "2770", account.pw_name)]
    said: list[str] = []
    monkeypatch.setattr(module, "fail_host", lambda what, hint: said.append(what) or [])
    assert run(monkeypatch, wanted) == []
    assert said == [f"a symbolic link is in the place of the folder {outputs}/painter"]
    # Root's own link, in a folder of root's, leads to another disk:
    os.chown(outputs, 0, 0)
    os.chown(outputs / "painter", 0, 0, follow_symlinks=False)
    [step] = run(monkeypatch, wanted)
    subprocess.run(["sh", "-c", step.get_raw_value()], check=True)  # type: ignore[attr-defined]
    assert (precious.owner(), precious.stat().st_mode & 0o7777) == (account.pw_name, 0o2770)


@needs_root
def test_all_that_a_folder_holds_changes_hands_and_no_link_is_followed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data, precious = tmp_path / "data", tmp_path / "precious"
    deep = data / "one" / "two"
    deep.mkdir(parents=True)
    precious.mkdir()
    (precious / "kept").touch()
    (deep / "file").touch(mode=0o640)
    (deep / "file link").symlink_to(precious / "kept")
    (data / "folder link").symlink_to(precious)
    for path in (data, *data.rglob("*")):
        os.chown(path, 2, 2, follow_symlinks=False)
    wanted = [Folder(str(data), "750", pwd.getpwuid(1).pw_name, whole=True)]
    [step] = run(monkeypatch, wanted)
    subprocess.run(["sh", "-c", step.get_raw_value()], check=True)  # type: ignore[attr-defined]
    assert {path.lstat().st_uid for path in (data, *data.rglob("*"))} == {1}
    assert {path.stat().st_uid for path in (precious, precious / "kept")} == {0}
    assert (deep / "file").stat().st_mode & 0o777 == 0o640 and run(monkeypatch, wanted) == []
    # Another mode alone is no reason to give anything away.
    data.chmod(0o755)
    os.chown(deep, 2, 2)
    [step] = run(monkeypatch, wanted)
    subprocess.run(["sh", "-c", step.get_raw_value()], check=True)  # type: ignore[attr-defined]
    assert (deep.stat().st_uid, data.stat().st_mode & 0o777) == (2, 0o750)


@needs_root
def test_an_interrupted_run_goes_on_giving_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What it had not come to is not forgotten: the folder itself changes hands last."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "file").touch()
    for path in (data, data / "file"):
        os.chown(path, 2, 2)
    wanted = [Folder(str(data), "750", pwd.getpwuid(1).pw_name, whole=True)]
    [step] = run(monkeypatch, wanted)
    broken = step.get_raw_value().replace("chown -hRP", "false")  # type: ignore[attr-defined]
    assert subprocess.run(["sh", "-c", broken], check=False).returncode
    assert (data.stat().st_uid, data.stat().st_mode & 0o777) == (0, 0o700)  # meanwhile nobody adds to it
    [step] = run(monkeypatch, wanted)
    subprocess.run(["sh", "-c", step.get_raw_value()], check=True)  # type: ignore[attr-defined]
    assert {path.stat().st_uid for path in (data, data / "file")} == {1}
