"""Accounts: which groups and users are made, which corrected, and by what."""

from __future__ import annotations

import subprocess

import pytest

from gpuhost.catalog.types import Account
from gpuhost.host.accounts import SHELL, AccountsReading, AccountsState, User, commands, reconcile

ONE, TWO = Account(name="svc", uid=10001, gid=10001), Account(name="svc-api", uid=10002, gid=10003)
RIGHT = AccountsReading(
    {"svc": User(10001, 10001, SHELL), "svc-api": User(10002, 10003, SHELL)}, {"svc": 10001, "svc-api": 10003}
)


def test_getents_lines_are_read() -> None:
    command = AccountsState().command(["root", "no-such-account"])
    lines = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout.splitlines()
    seen = AccountsState().process(lines)
    assert (seen.users["root"].uid, seen.users["root"].gid, seen.groups) == (0, 0, {"root": 0})
    assert AccountsState().process(["user:svc:x:10001:10001::/nonexistent:/bin/sh"]).users == {
        "svc": User(10001, 10001, "/bin/sh")
    }


def test_right_ones_are_left_alone() -> None:
    assert reconcile([ONE, TWO], RIGHT) == []


def test_all_are_made_on_a_bare_host_groups_first() -> None:
    changes = reconcile([ONE, TWO], AccountsReading())
    assert [(change.action, change.resource.kind, change.resource.name, change.reason) for change in changes] == [
        ("create", "group", "svc", "no such group"),
        ("create", "group", "svc-api", "no such group"),
        ("create", "user", "svc", "no such user"),
        ("create", "user", "svc-api", "no such user"),
    ]
    made = "--home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin"
    assert commands(changes, [ONE, TWO]).splitlines() == [
        "set -eu",
        "groupadd --gid 10001 svc",
        "groupadd --gid 10003 svc-api",
        f"useradd --uid 10001 --gid 10001 {made} svc",
        f"useradd --uid 10002 --gid 10003 {made} svc-api",
    ]


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        (User(10002, 100, SHELL), "its group is 100, not 10003"),
        (User(10002, 10003, "/bin/bash"), "its shell is /bin/bash, not /usr/sbin/nologin"),
        (User(10002, 100, "/bin/sh"), "its group is 100, not 10003, its shell is /bin/sh, not /usr/sbin/nologin"),
    ],
)
def test_a_wrong_one_is_corrected(user: User, reason: str) -> None:
    seen = AccountsReading({**RIGHT.users, "svc-api": user}, RIGHT.groups)
    [change] = reconcile([ONE, TWO], seen)
    assert (change.key, change.reason) == (("layout", "user", "svc-api", "correct"), reason)
    assert commands([change], [ONE, TWO]).splitlines()[1:] == ["usermod --gid 10003 --shell /usr/sbin/nologin svc-api"]
