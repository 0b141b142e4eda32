"""What changes in a file, line by line: in a plan, of files that hold no secret, without one all the same."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import pytest

from gpuhost.files import operations as files
from gpuhost.files.diffs import COLUMNS_MAX, LINES_MAX, unified
from gpuhost.files.facts import FileState, Texts
from gpuhost.files.rules import FileSpec, plain, reconcile
from hostside.redaction import Redactor


def nothing(text: str) -> str:
    return text


def test_a_diff() -> None:
    before, after = "a\nb\nc\nd\ne\nf\n", "a\nb\nc\nD\ne\nf\n"
    assert unified(before, after, nothing) == ("@@ -2,5 +2,5 @@", " b", " c", "-d", "+D", " e", " f")
    assert unified(None, "a\n", nothing) == ("@@ -0,0 +1 @@", "+a")


def test_secrets_are_masked_before_anything_is_cut() -> None:
    secret = "s" * 40
    mask = Redactor([secret]).text
    lines = unified(f"token: {secret}\n", f"token: ${{TOKEN}}\n{'x' * (COLUMNS_MAX - 5)}{secret}\n", mask)
    assert lines[1:3] == ("-token: [redacted]", "+token: ${TOKEN}") and not any("sss" in line for line in lines)
    assert unified(f"a {secret}\n", "a [redacted]\n", mask) == (
        "(only what is masked here, or the end of the last line)",
    )


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        # With something else, far from it or beside it, the stamp is no news.
        ("a: 1\n  x.spec: old\n", "a: 2\n  x.spec: new\n", ("@@ -1,2 +1,2 @@", "-a: 1", "+a: 2", "   x.spec: ...")),
        ("x.spec: old\nb\nc\nd\n", "x.spec: new\nb\nc\nD\n", ("@@ -2,3 +2,3 @@", " b", " c", "-d", "+D")),
        ("a\n", "a\nx.spec: new\n", ("@@ -1 +1,2 @@", " a", "+x.spec: ...")),
        # Alone it is named.
        (
            "a\nx.spec: old\n",
            "a\nx.spec: new\n",
            ("(only the label `x.spec`: its service's own line says what in it)",),
        ),
        ("a\n", "a", ("(only what is masked here, or the end of the last line)",)),
        # Another key, or the word in a value, is no stamp.
        ("x.spec2: a\nb\n", "x.spec2: b\nc\n", ("@@ -1,2 +1,2 @@", "-x.spec2: a", "-b", "+x.spec2: b", "+c")),
        ("y: x.spec: a\nb\n", "y: x.spec: b\nc\n", ("@@ -1,2 +1,2 @@", "-y: x.spec: a", "-b", "+y: x.spec: b", "+c")),
        ("xyspec: a\nb\n", "xyspec: b\nc\n", ("@@ -1,2 +1,2 @@", "-xyspec: a", "-b", "+xyspec: b", "+c")),
    ],
)
def test_what_a_stamp_says_is_not_shown(before: str, after: str, lines: tuple[str, ...]) -> None:
    assert unified(before, after, nothing, "x.spec") == lines


def test_what_is_long_or_no_text() -> None:
    lines = unified(None, "line\n" * 1000, nothing)
    assert len(lines) == LINES_MAX + 1 and lines[-1] == "(and 801 lines more)"
    assert unified("a\0", "b", nothing) == unified("a", "\udcff", nothing) == ("(not a text)",)
    assert "too large" in unified("a" * 300_000, "b", nothing)[0]


PLAIN, SECRET = plain("/etc/plain", "new\n"), FileSpec("/etc/secret", lambda: "value\n", "600", secret=True)
FRESH = plain("/etc/fresh", "first\n")


def state(text: str) -> FileState:
    return FileState("regular file", "644", "root", "root", 1.0, hashlib.sha256(text.encode()).hexdigest())


def shown(monkeypatch: pytest.MonkeyPatch, asked: str, **over: Any) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """path -> the diff of each change; and which files were read."""
    read: list[str] = []

    def get_fact(fact: type, paths: list[str]) -> dict[str, str]:
        assert fact is Texts
        read.extend(paths)
        return {"/etc/plain": "old\n"}

    monkeypatch.setattr(files, "host", SimpleNamespace(get_fact=get_fact))
    monkeypatch.setattr(files, "text_diffs", lambda: asked)
    wanted, observed = [PLAIN, SECRET, FRESH], {"/etc/plain": state("old\n"), "/etc/secret": state("other\n")}
    changes = reconcile("layout", wanted, {spec.path: spec.content() for spec in wanted}, observed)
    found = files.with_text_diffs(changes, wanted, observed, **over)
    return {change.resource.name: change.text_diff for change in found}, read


CHANGED = ("@@ -1 +1 @@", "-old", "+new")


def test_a_plan_shows_what_changes_in_files_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    diffs, read = shown(monkeypatch, "changed")
    assert diffs == {"/etc/plain": CHANGED, "/etc/secret": (), "/etc/fresh": ()}
    assert read == ["/etc/plain"]


def test_unasked_nobody_reads_programs_nor_new_files(monkeypatch: pytest.MonkeyPatch) -> None:
    diffs, read = shown(monkeypatch, "changed", shipped=True)
    assert set(diffs.values()) == {()} and read == []
    diffs, _ = shown(monkeypatch, "all", shipped=True)
    assert diffs == {"/etc/plain": CHANGED, "/etc/secret": (), "/etc/fresh": ("@@ -0,0 +1 @@", "+first")}


def test_a_stamp_is_shown_when_all_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []

    def diff(before: str, after: str, mask: object, stamp: str) -> tuple[str, ...]:
        given.append(stamp)
        return ()

    monkeypatch.setattr(files, "unified", diff)
    shown(monkeypatch, "changed", stamp="x.spec")
    shown(monkeypatch, "all", stamp="x.spec")
    assert given == ["x.spec", "", ""]


def test_a_run_that_acts_reads_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, "")[1] == []
