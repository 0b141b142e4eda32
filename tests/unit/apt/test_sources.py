"""Which files declare a repository already."""

from __future__ import annotations

import pytest

from gpuhost.apt.sources import declaring, disabling

URL = "https://apt.example/deb/amd64"
A, B = "/etc/apt/sources.list.d/a.list", "/etc/apt/sources.list.d/b.sources"


@pytest.mark.parametrize(
    ("declared", "alone", "shared"),
    [
        ([], [], []),
        ([(A, URL)], [A], []),
        ([(A, "https://apt.example/deb/$(ARCH)/"), (A, URL)], [A], []),
        ([(A, URL), (A, "https://other.example")], [], [A]),
        ([(A, URL), (A, "other")], [], [A]),
        ([(A, URL), (B, URL), (B, "other")], [A], [B]),
        ([(A, URL + "x"), (B, "https://apt.example/deb/arm64")], [], []),
        ([("/etc/apt/sources.list", URL)], [], ["/etc/apt/sources.list"]),
    ],
)
def test_who_declares_it(declared: list[tuple[str, str]], alone: list[str], shared: list[str]) -> None:
    assert declaring(declared, URL, "amd64") == (alone, shared)


def test_what_is_done_is_told() -> None:
    [change] = disabling("gpu", [A], URL)
    assert (change.stage, change.resource.name, change.action) == ("gpu", A, "disable")
    assert URL in change.reason and "*.disabled" in change.reason
