"""Files that cannot be written."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import pytest

from gpuhost.errors import Problem
from gpuhost.files import operations as files
from gpuhost.files.facts import FileState
from gpuhost.files.rules import FileSpec, plain
from gpuhost.run.remote import Completed


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


NOT_ASKED = "what the host answered is not what was asked"


@pytest.mark.parametrize(
    ("ok", "said", "what"),
    [
        (True, "stat\t/a\tregular file\t600\nend\n", NOT_ASKED),
        (True, "stat\t/a\tregular file\t600\troot\t0\troot\t0\tsoon\nend\n", NOT_ASKED),
        (True, "hunter2\t/a\t0\nend\n", NOT_ASKED),
        (True, "stat\t/a\tregular file\t600\troot\t0\troot\t0\t1.5\nsha256\t/a\thunter2\n", NOT_ASKED),  # it broke off
        (False, "sh: stat: not found\n", "sh: stat: not found"),
    ],
    ids=["too little", "no time", "another word", "no end", "it failed"],
)
def test_secret_files_that_cannot_be_read_fail_their_own_host(
    monkeypatch: pytest.MonkeyPatch, ok: bool, said: str, what: str
) -> None:
    """With a sentence; an exception would end the run for all hosts."""
    told: list[Problem] = []
    failed: list[object] = []
    gpu1 = mock.Mock(get_fact=lambda fact, **_: {})
    gpu1.name = "gpu1"
    monkeypatch.setattr(files, "host", gpu1)
    monkeypatch.setattr(files, "state", SimpleNamespace(fail_hosts=failed.extend))
    monkeypatch.setattr(files, "run", lambda *_, **__: Completed(ok, said, said))
    monkeypatch.setattr(files, "lost", lambda _: None)
    monkeypatch.setattr(files, "report_problem", told.append)
    assert files.observe([FileSpec("/a", lambda: "x", "600", secret=True)], "key") == {}
    [problem] = told
    assert problem.what == f"the files of secrets could not be read: {what}" and failed == [gpu1]
    assert problem.host == "gpu1" and problem.hint and "hunter2" not in f"{problem}"
