"""Which files of a host declare a repository already, with a key of their own. Pure.

Of a repository that two files declare with two keys, apt reads nothing, and nothing of any other either.
"""

from __future__ import annotations

from collections.abc import Iterable

from gpuhost.plan.change import Change, Resource

DISABLED = ".disabled"  # apt passes over files that end so, and says nothing (Dir::Ignore-Files-Silently)
_LIST = "/etc/apt/sources.list"  # the system's own


def declaring(declared: Iterable[tuple[str, str]], url: str, architecture: str) -> tuple[list[str], list[str]]:
    """The files that declare the repository and nothing else, and those that declare others besides.

    `declared`: (file, URL) of every active source that is not ours; `other` in the place of one that has no URL.
    """
    files: dict[str, set[bool]] = {}
    for file, found in declared:
        same = found.replace("$(ARCH)", architecture).rstrip("/") == url.rstrip("/")
        files.setdefault(file, set()).add(same)
    alone = [file for file, kinds in files.items() if kinds == {True} and file != _LIST]
    return alone, [file for file, kinds in files.items() if True in kinds and file not in alone]


def disabling(stage: str, files: Iterable[str], url: str) -> list[Change]:
    """What is done with those of the first kind: each is kept beside itself, under a name that apt does not read."""
    reason = f"it declares {url}, too, with a key of its own: renamed to *{DISABLED}"
    return [Change(stage, Resource("apt source", file), "disable", reason) for file in files]
