"""What a person reads of two locks."""

from __future__ import annotations

from typing import Any

import pytest

from gpuhost.catalog.lock import EMPTY, Lock
from gpuhost.catalog.moved import moved

A, B, C = (letter * 64 for letter in "abc")


def a_lock(**kinds: Any) -> Lock:
    return Lock.model_validate({"version": 1, **kinds})


def image(digest: str) -> Lock:
    return a_lock(images={"acme/server:v1": {"digest": f"sha256:{digest}"}})


def install(*packages: str, subject: str = A) -> Lock:
    """Packages as `name==version:hash letters`."""
    lines = [
        pin + "".join(f" --hash=sha256:{letter * 64}" for letter in letters)
        for pin, _, letters in (package.partition(":") for package in packages)
    ]
    return a_lock(installs={"tree": {"for": subject, "requirements": lines}})


def model(commit: str, **files: str) -> Lock:
    listed = {name: {"size": 1, "sha256": letter * 64, "git_sha1": "0" * 40} for name, letter in files.items()}
    return a_lock(models={"Acme/Models": {"main": {"commit": commit * 40, "files": listed}}})


TWO, THREE = ({"wood": {"for": A, "requirements": [f"b=={n} --hash=sha256:{A}"]}} for n in (1, 2))


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        (EMPTY, EMPTY, []),
        (image(A), image(A), []),
        (EMPTY, image(A), ["image acme/server:v1", f"  + sha256:{A}"]),
        (image(A), EMPTY, ["image acme/server:v1", f"  - sha256:{A}"]),
        (image(A), image(B), ["image acme/server:v1", f"  - sha256:{A}", f"  + sha256:{B}"]),
        (EMPTY, install("a==1:a", "b==2:b"), ["install tree: 2 of 2 packages", "  + a 1", "  + b 2"]),
        (install("a==1:a"), EMPTY, ["install tree: 1 of 1 packages", "  - a 1"]),
        (
            install("a==1:a", "b==1:a", "c==1:ab"),
            install("b==2:a", "c==1:ab", "d==1:a"),
            ["install tree: 3 of 3 packages", "  - a 1", "  ~ b 1 -> 2", "  + d 1"],
        ),
        (install("a==1:ab"), install("a==1:abc"), ["install tree: 1 of 1 packages", "  ~ a 1: 1 more files"]),
        (
            install("a==1:ab"),
            install("a==1:ac"),
            ["install tree: 1 of 1 packages", "  ! a 1: of 2 files that were locked 1 are not those any more"],
        ),
        (
            install("a==1:a"),
            install("a==1:a", subject=B),
            ["install tree: 0 of 1 packages", "  ~ locked for the entry as it is now"],
        ),
        (
            a_lock(installs={**install("a==1:a").model_dump(by_alias=True)["installs"], **TWO}),
            a_lock(installs={**install("a==1:a").model_dump(by_alias=True)["installs"], **THREE}),
            ["install wood: 1 of 1 packages", "  ~ b 1 -> 2"],
        ),
        (EMPTY, model("1", x="a"), ["model Acme/Models main", f"  + {'1' * 40}"]),
        (
            model("1", x="a", y="a", z="a"),
            model("2", x="a", y="b", w="c"),
            ["model Acme/Models main", f"  - {'1' * 40}", f"  + {'2' * 40}", "  + w", "  ~ y", "  - z"],
        ),
        (model("1", x="a"), model("1", x="b"), ["model Acme/Models main", "  ! x"]),
    ],
)
def test_what_moved(old: Lock, new: Lock, lines: list[str]) -> None:
    assert moved(old, new) == lines
    assert all(len(line) <= 80 for line in lines)
