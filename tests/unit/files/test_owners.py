"""A file of an account that is gone belongs to its id, which has its name again once the account is made."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gpuhost.catalog.types import Account
from gpuhost.files.facts import FilesState
from gpuhost.files.folders import FoldersState
from gpuhost.files.owners import NOBODY, Owners

OWNERS = Owners.of([Account(name="genai", uid=10001, gid=10002), Account(name="svc", uid=10003, gid=10003)])


def sh(script: str) -> list[str]:
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize(
    ("seen", "to_be"),
    [
        ("10001:10002", "genai:genai"),
        ("10003:10003", "svc:svc"),
        ("root:10002", "root:genai"),
        ("10002:10001", "10002:10001"),  # a user's id is no group's
        ("4242:root", "4242:root"),
        ("admin:admin", "admin:admin"),
    ],
)
def test_the_owner_as_it_will_be_called(seen: str, to_be: str) -> None:
    assert OWNERS.both(seen) == to_be
    user, group = seen.split(":")
    assert f"{OWNERS.user(user)}:{OWNERS.group(group)}" == to_be
    assert NOBODY.both(seen) == seen


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_an_id_that_nobody_has_is_read_as_a_number(tmp_path: Path) -> None:
    file = tmp_path / "a b"
    file.touch()
    os.chown(file, 54321, 54322)
    [there] = FilesState().process(sh(FilesState().command([str(file)]))).values()
    assert (there.user, there.group) == ("54321", "54322")
    [folder] = FoldersState().process(sh(FoldersState().command([str(file)]))).values()
    assert folder.owner == "54321:54322"
