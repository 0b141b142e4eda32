"""Folders: what is wrong with one is told, and only that is put right."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyinfra.api.command import PyinfraCommand

from gpuhost.files import folders as module
from gpuhost.files.folders import Folder, FoldersState, FolderState, reconcile

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
WANTED = Folder("/data", "755", "root")
RIGHT = FolderState("directory", "755", "root:root")


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
    assert found[str(one)] == found[str(link)] and found[str(one)].mode == "700"  # a link is what it points to
    assert found[str(file)].kind == "regular empty file"


def run(monkeypatch: pytest.MonkeyPatch, wanted: list[Folder]) -> list[PyinfraCommand]:
    observed = read(*(Path(folder.path) for folder in wanted))
    monkeypatch.setattr(module, "host", SimpleNamespace(get_fact=lambda fact, paths: observed))
    monkeypatch.setattr(module, "carry_out", lambda changes, commands: commands if changes else [])
    return list(module.folders._inner(stage="layout", wanted=wanted))


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


def test_a_file_in_the_place_of_a_folder_fails_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said: list[tuple[str, str]] = []
    monkeypatch.setattr(module, "failing", lambda what, hint: said.append((what, hint)))
    run(monkeypatch, [Folder(str(tmp_path / "file"), "755", "root")])
    assert said[0][0] == f"a regular empty file is in the place of the folder {tmp_path / 'file'}"
