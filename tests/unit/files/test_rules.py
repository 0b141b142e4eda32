"""Why a file must be written."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from gpuhost.files.facts import FileState
from gpuhost.files.rules import FileSpec, encoded, reason, reconcile, same

WANTED = FileSpec("/a", lambda: "text", "600", "svc", "svc-group")
RIGHT = FileState("regular file", "600", "svc", "svc-group", 1.0, hashlib.sha256(b"text").hexdigest())


@pytest.mark.parametrize(
    ("over", "why"),
    [
        ({}, None),
        ({"modified_s": 9.0}, None),
        ({"kind": "symbolic link"}, "a symbolic link is in its place"),
        ({"sha256": "0" * 64}, "the content differs"),
        ({"mode": "644"}, "the mode is 644, not 600"),
        ({"user": "root"}, "the owner is root:svc-group, not svc:svc-group"),
        ({"group": "users"}, "the owner is svc:users, not svc:svc-group"),
        ({"sha256": "0" * 64, "mode": "644", "user": "root"}, "the content differs"),
    ],
    ids=repr,
)
def test_what_differs_is_told(over: dict[str, Any], why: str | None) -> None:
    there = replace(RIGHT, **over)
    assert reason(WANTED, "text", there) == why
    changes = reconcile("layout", [WANTED], {"/a": "text"}, {"/a": there})
    assert [(each.key, each.reason) for each in changes] == ([(("layout", "file", "/a", "write"), why)] if why else [])


def test_what_is_not_there_is_created() -> None:
    [change] = reconcile("layout", [WANTED], {"/a": "text"}, {})
    assert (change.key, change.reason) == (("layout", "file", "/a", "create"), "it does not exist")
    assert (change.scope, reconcile("stacks", [WANTED], {"/a": "text"}, {}, scope="rendered")[0].scope) == (
        "",
        "rendered",
    )


def test_an_empty_file_is_a_file() -> None:
    empty = replace(RIGHT, kind="regular empty file", sha256=hashlib.sha256(b"").hexdigest())
    assert reason(WANTED, "", empty) is None and reason(WANTED, "text", empty) == "the content differs"


def test_a_file_that_is_no_text_keeps_its_bytes() -> None:
    assert encoded("a\udcff") == b"a\xff"
    there = replace(RIGHT, sha256=hashlib.sha256(b"a\xff").hexdigest())
    assert reason(WANTED, "a\udcff", there) is None and reason(WANTED, "a", there) == "the content differs"


def test_the_hash_of_one_that_may_hold_a_secret_is_keyed() -> None:
    secret = replace(WANTED, secret=True)
    keyed = replace(RIGHT, sha256=hashlib.sha256(b"keytext").hexdigest())
    assert reason(secret, "text", keyed, "key") is None
    assert reason(secret, "text", RIGHT, "key") == "the content differs"
    assert reason(secret, "text", RIGHT) is None  # before there is a key
    assert reconcile("stacks", [secret], {"/a": "text"}, {"/a": RIGHT}) == [] and same(secret, "text", RIGHT)
    assert reason(secret, None, keyed, "key") == "it holds a secret that will be generated"
