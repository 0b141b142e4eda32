"""An install: its spec, its folder, and whether it is there as it was made. Pure, but for the text of its script."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gpuhost.catalog.types import Catalog, Install
from gpuhost.files import trees
from gpuhost.images import rules as images
from gpuhost.installs.facts import InstallReading
from gpuhost.plan.change import Change, Difference, Resource
from gpuhost.plan.spec import Spec, canonical, differences, digest, parse, summary, text_digest
from gpuhost.project import project_file
from hostside.protocol.trees import TreeSeen


def script(install: Install) -> str:
    """The text of its script."""
    return project_file(f"files/{install.script}")


def spec(install: Install, image: str, requirements: Sequence[str] | None = None) -> dict[str, Any]:
    """Everything that makes the install what it is. `image`: the reference of the image that runs the script;
    `requirements`: its packages, when they are locked."""
    made = {
        "version": install.version,
        "script": text_digest(script(install)),
        "image": image,
        "environment": dict(install.environment),
    }
    return made if requirements is None else {**made, "packages": dict(map(_package, requirements))}


def _package(requirement: str) -> tuple[str, str]:
    """A locked package: its name, its version with what stands for the hashes of its files."""
    pin, _, hashes = requirement.partition(" --hash=")
    name, _, version = pin.partition("==")
    return name, f"{version} {text_digest(hashes)}"


def lock_text(requirements: Sequence[str]) -> str:
    """The file that pip is given."""
    return "".join(f"{requirement}\n" for requirement in requirements)


def folder(install: Install, spec: Spec) -> str:
    """The folder's name: installs live side by side, so that a rollback finds its own."""
    return f"{install.version}-{digest(spec)[:12]}"


def environment(install: Install, spec: Spec) -> dict[str, str]:
    """What the script reads from its environment; nothing secret."""
    return {**install.environment, "INSTALL_SPEC": canonical(spec)}


@dataclass(frozen=True)
class Sources:
    """What an install's packages are resolved from. `repositories`: (URL, commit) whose requirements.txt counts;
    `indexes`: (URL of a package index, pins that come from it, and nothing else does); `lines`: of a
    requirements file."""

    repositories: Sequence[tuple[str, str]] = ()
    indexes: Sequence[tuple[str, Sequence[str]]] = ()
    lines: Sequence[str] = ()

    def __bool__(self) -> bool:
        return any((self.repositories, self.indexes, self.lines))


def sources(install: Install) -> Sources:
    """By the names of its variables, see Install."""
    given = install.environment
    repositories = [(url, given[f"{name}_REF"]) for name, url in _named(given, "_URL") if f"{name}_REF" in given]
    repositories += [(words[1], words[2]) for words in _lines(given) if len(words) == 3 and _COMMIT.fullmatch(words[2])]
    indexes = [
        (url, given[f"{name}_PACKAGES"].split())
        for name, url in _named(given, "_INDEX_URL")
        if f"{name}_PACKAGES" in given
    ]
    lines = [line for line in given.get("EXTRA_REQUIREMENTS", "").splitlines() if line.strip()]
    return Sources(repositories, indexes, lines)


def _lines(given: Mapping[str, str]) -> list[list[str]]:
    return [line.split() for key in sorted(given) for line in given[key].splitlines()]


def _named(given: Mapping[str, str], ending: str) -> list[tuple[str, str]]:
    return [(key.removesuffix(ending), value) for key, value in sorted(given.items()) if key.endswith(ending)]


def lock_subject(catalog: Catalog, name: str) -> str:
    """What a lock of an install was made for, when it is that of its entry."""
    install = catalog.installs[name]
    return subject(install, images.sources(catalog.images[install.image])[-1])


def subject(install: Install, base: str) -> str:
    """The digest of everything in the data that the packages are resolved from. `base`: the reference of the image that
    has the install's Python."""
    found = sources(install)
    return digest([list(found.repositories), list(found.indexes), list(found.lines), base])


STALE = "was locked as another entry than it is now"
_COMMIT = re.compile(r"[0-9a-f]{40}")
PYTHON = re.compile(r"\d+\.\d+(\.\d+)?")
UNPINNED = "unpinned: its packages are what the indexes serve on that day; `gpuhost lock` pins them"


def limits(install: Install, host_cpus: int) -> list[str]:
    """The limits of the script's container, as options of `docker run`; there is no swap. Docker refuses more cores
    than the host has: all, then."""
    return [
        f"--memory={install.memory}",
        f"--memory-swap={install.memory}",
        f"--cpus={min(install.cpus, host_cpus):g}",
        f"--pids-limit={install.pids}",
        "--ulimit=core=0",
    ]


@dataclass(frozen=True)
class Finding:
    """What is to be done with an install. `install`: its script runs in its folder, from where it may have stopped;
    `reinstall`: in an empty folder, what is there is set aside; `record`: only the times of its files are written
    down anew."""

    action: Literal["install", "reinstall", "record"]
    reason: str
    diff: tuple[Difference, ...] = ()

    def change(self, path: str) -> Change:
        """As a plan shows it."""
        return Change("installs", Resource("install", path), self.action, self.reason, self.diff)


def judge(path: str, spec: Spec, reading: InstallReading) -> Finding | None:
    """None when the folder `path` has the stamp of this spec and holds what was recorded when it was made.

    A manifest is there from before the script's start. What has none (made by a gpuhost that kept none, or half set
    aside by a run that was killed) cannot be told from what somebody changed: it counts as damaged, for a record made
    now would vouch for whatever is there.
    """
    tree = reading.tree
    if path not in reading.stamps:
        return Finding("install", *_absent(spec, reading.stamps))
    if tree and tree.state == "recorded" and tree.differing:
        return _damaged(tree, trees.first_difference(tree), trees.differences(tree))
    if tree and tree.state == "unknown":
        return _damaged(tree, "there is no record of what was installed, so nobody can say whether it still is that")
    found = _installed(reading.stamps[path])
    if canonical(found) != canonical(spec) or (tree and tree.state == "unfinished"):
        return Finding("install", "it was not finished")
    if tree and tree.touched:
        more = f" and {tree.touched - 1} more were" if tree.touched > 1 else " was"
        return Finding("record", f"{tree.first_touched}{more} touched; the bytes are those that were installed")
    return None


def _damaged(tree: TreeSeen, why: str, diff: tuple[Difference, ...] = ()) -> Finding:
    kept = f"what is there ({tree.disk_bytes / 1e6:.0f} MB) is set aside"
    return Finding("reinstall", f"{why}; {kept}", diff)


def _absent(spec: Spec, stamps: Mapping[str, str]) -> tuple[str, tuple[Difference, ...]]:
    others = {other: made for other, stamp in stamps.items() if (made := _installed(stamp)) is not None}
    # One of this very spec was set aside.
    diffs = {other: diff for other, made in others.items() if (diff := differences(made, spec))}
    if not diffs:
        return "not installed", ()
    nearest = min(diffs, key=lambda other: (len(diffs[other]), other))
    return f"{summary(diffs[nearest])}; {nearest.rpartition('/')[2]} stays beside it", diffs[nearest]


def _installed(stamp: str | None) -> dict[str, Any] | None:
    made = (parse(stamp) or {}).get("spec")
    return made if isinstance(made, dict) else None
