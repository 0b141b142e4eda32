"""Files that cannot be written."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gpuhost.files import operations as files
from gpuhost.files.facts import FileState
from gpuhost.files.rules import plain


def state(kind: str) -> FileState:
    return FileState(kind, "755", "root", "root", 1.0, "-")


@pytest.mark.parametrize("kind", ["regular file", "symbolic link", "fifo"])
def test_what_is_replaced_is_no_problem(kind: str) -> None:
    assert files.blocked({"/a": state(kind)}) is None


def test_a_folder_in_the_place_of_a_file_is_told_by_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that it holds is removed, and no apply begins that would end there."""
    told: list[str] = []
    monkeypatch.setattr(files, "host", SimpleNamespace(get_fact=lambda fact, **k: {"/a/b": state("directory")}))
    monkeypatch.setattr(files, "fail_host", lambda what, hint: told.append(f"{what}; {hint}") or [])
    monkeypatch.setattr(files, "carry_out", lambda *a: pytest.fail("it acts"))
    assert list(files.files._inner(stage="layout", wanted=[plain("/a/b", "x")], backups="/backups")) == []
    assert told == [
        "a folder is in the place of the file /a/b; move it away; nothing is deleted that gpuhost did not make"
    ]
