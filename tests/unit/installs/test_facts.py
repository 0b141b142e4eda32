"""The stamps of installs, read here by the fact's own script, from folders that are another account's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gpuhost.installs.facts import STAMP, InstallState
from hostside.protocol.trees import TreeSeen
from tests.unit.hostile import KINDS, make


def read(root: Path) -> dict[str, str]:
    script = InstallState().command(f"{root}/none", f"{root}/none.json")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=20, check=True)
    assert done.stderr == ""
    return dict(InstallState().process(done.stdout.splitlines()).stamps)


def test_the_stamp_of_each_version(tmp_path: Path) -> None:
    for name in ("done", "half", "empty", "hidden"):
        (tmp_path / name / ".gpuhost").mkdir(parents=True)
    (tmp_path / "done" / STAMP).write_text('{"spec": {}}')
    (tmp_path / "half" / "file").touch()
    (tmp_path / "empty" / ".gpuhost").rmdir()
    (tmp_path / "file").touch()
    wanted = {"done": '{"spec": {}}', "half": "", "hidden": ""}
    assert read(tmp_path) == {f"{tmp_path}/{name}": stamp for name, stamp in wanted.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stamp_made_to_keep_root_busy(tmp_path: Path, kind: str) -> None:
    (tmp_path / "v1" / ".gpuhost").mkdir(parents=True)
    make(tmp_path / "v1" / STAMP, kind)
    [stamp] = read(tmp_path).values()
    assert len(stamp) <= 2**16 and stamp.strip("\0") == ""


def test_a_folder_with_many_files_is_not_listed_to_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "v1"
    folder.mkdir()
    for number in range(20_000):
        (folder / f"{number:0250}").touch()
    assert read(tmp_path) == {str(folder): ""}
    assert "ls " not in InstallState().command(f"{tmp_path}/none", f"{tmp_path}/none.json")


def test_on_a_system_that_was_installed_anew_an_install_has_no_record_though_there_is_no_python(tmp_path: Path) -> None:
    """On a disk that stayed. What has a record is compared when python3 is there."""
    (tmp_path / "v1" / ".gpuhost").mkdir(parents=True)
    (tmp_path / "v1" / "file").write_bytes(b"x" * 9000)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("find", "dd", "base64", "du", "cut", "timeout"):
        (programs / name).symlink_to(f"/usr/bin/{name}")
    script = InstallState().command(f"{tmp_path}/v1", f"{tmp_path}/v1.json")

    def tree() -> TreeSeen | None:
        done = subprocess.run(
            ["/bin/sh", "-c", script],
            env={"PATH": str(programs)},
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        assert done.stderr == ""
        return InstallState().process(done.stdout.splitlines()).tree

    found = tree()
    assert found and found.state == "unknown" and found.disk_bytes >= 9000
    (tmp_path / "v1.json").touch()
    assert tree() is None
