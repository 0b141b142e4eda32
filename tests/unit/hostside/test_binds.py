"""A path that another account than root can turn elsewhere is not mounted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostside import binds

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of root's in a folder of root's, up to the root; pytest's own lies in /tmp."""
    made = Path(
        subprocess.run(["mktemp", "-d", "/var/lib/gpuhost-test.XXXXXX"], capture_output=True, text=True).stdout.strip()
    )
    (made / "inner").mkdir()
    (made / "inner" / "file").touch()
    yield made
    subprocess.run(["rm", "-r", made], check=True)


def told(path: Path) -> str:
    found = binds.fault(str(path))
    return found[0] if found else ""


def test_what_root_alone_leads_to_may_be_anybodys(folder: Path) -> None:
    os.chown(folder / "inner", 1000, 1000)
    (folder / "inner").chmod(0o777)
    assert told(folder / "inner") == ""
    assert told(Path("/var/run/../run/.")) == ""


@pytest.mark.parametrize(
    ("mode", "owner", "group", "safe"),
    [
        (0o755, 0, 0, True),
        (0o755, 0, 1000, True),
        (0o775, 0, 0, True),
        (0o710, 0, 1000, True),
        (0o775, 0, 1000, False),
        (0o757, 0, 0, False),
        (0o1777, 0, 0, False),
        (0o700, 1000, 0, False),
    ],
)
def test_who_may_write_to_a_folder_on_the_way(folder: Path, mode: int, owner: int, group: int, safe: bool) -> None:
    os.chown(folder / "inner", owner, group)
    (folder / "inner").chmod(mode)
    path = folder / "inner" / "file"
    expected = f"{path} is not mounted: others than root may write to {folder}/inner, and put a link there"
    assert told(path) == ("" if safe else expected)


def test_a_link_of_somebodys_is_refused_and_roots_own_is_followed_and_held_to_the_same(folder: Path) -> None:
    open_to_all = folder / "open"
    open_to_all.mkdir()
    (open_to_all / "thing").touch()
    open_to_all.chmod(0o777)
    link = folder / "link"
    link.symlink_to("inner/../inner/file")
    assert told(link) == ""
    os.chown(link, 1000, 1000, follow_symlinks=False)
    assert told(link) == f"{link} is a link that root did not make"
    (folder / "away").symlink_to(open_to_all)
    assert told(folder / "away") == ""  # the folder itself may be anybody's
    assert f"others than root may write to {open_to_all}" in told(folder / "away" / "thing")


def test_a_circle_and_nothing_at_all(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    assert "is a link" in told(folder / "a")
    assert told(folder / "absent") == f"{folder}/absent cannot be mounted: No such file or directory"
    assert "Not a directory" in told(folder / "inner" / "file" / "deeper")


def test_as_a_process(folder: Path) -> None:
    """The first that is wrong is told, as our programs tell it."""
    (folder / "inner").chmod(0o777)
    for paths, code in (([folder / "inner"], 0), ([folder, folder / "inner" / "file"], 1)):
        command = [sys.executable, "-I", "-B", "-m", "hostside.binds", *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code
    error, hint = done.stderr.splitlines()
    assert error.startswith(f"error: {folder}/inner/file is not mounted") and hint.startswith("hint: ")
