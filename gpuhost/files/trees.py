"""Folders that were made whole and that nobody changes afterwards: how one is looked at, and what differs, in words."""

from __future__ import annotations

import shlex

from gpuhost.plan.change import Difference
from gpuhost.project import project_file
from hostside.protocol.trees import TreeDifference, TreeEntry, TreeSeen

LIMIT_S = 900  # then the host is refused: a disk that does not answer must not hold up a run for ever
DIGITS = 12  # of a sha256, for people


def look_command(folder: str, manifest: str) -> str:
    """A shell command that prints a TreeSeen as one line of JSON. It needs python3 and none of our programs."""
    words = ["timeout", str(LIMIT_S), "python3", "-I", "-B", "-c", project_file("files/host/hostside/trees/look.py")]
    return shlex.join([*words, folder, manifest])


def first_difference(seen: TreeSeen) -> str:
    """`x.py is gone and 4 more differ`; of a folder in which something differs."""
    more = seen.differing - 1
    others = "" if not more else " and 1 more differs" if more == 1 else f" and {more} more differ"
    return _sentence(seen.first[0]) + others


def differences(seen: TreeSeen) -> tuple[Difference, ...]:
    """What differs, one by one, as far as it was told."""
    return tuple(Difference(each.path, *_values(each)) for each in seen.first)


def _sentence(each: TreeDifference) -> str:
    recorded, found = each.recorded, each.found
    if recorded is None:
        return f"{each.path} was added"
    if found is None:
        return f"{each.path} is gone"
    if found.kind != recorded.kind:
        return f"{each.path} is a {found.kind}, not a {recorded.kind}"
    if found.size != recorded.size:
        return f"{each.path} has {found.size} bytes, not {recorded.size}"
    if found.mode != recorded.mode:
        return f"{each.path} has mode {found.mode:o}, not {recorded.mode:o}"
    if _owner(found) != _owner(recorded):
        return f"{each.path} belongs to {_owner(found)}, not {_owner(recorded)}"
    if found.kind == "link":
        return f"{each.path} leads to {found.text}, not {recorded.text}"
    return f"{each.path} has other bytes" if found.text else f"{each.path} cannot be read"


def _values(each: TreeDifference) -> tuple[str | None, str | None]:
    """Before and after, as far as the two differ."""
    recorded, found = each.recorded, each.found
    if recorded is None or found is None or found.kind != recorded.kind:
        return (f"a {found.kind}" if found else None), (f"a {recorded.kind}" if recorded else None)
    before, after = _fields(found), _fields(recorded)
    names = [name for name in before if before[name] != after[name]]
    if not names:  # a file is only read when all the rest is as recorded
        return _text(found), _text(recorded)
    return ", ".join(before[name] for name in names), ", ".join(after[name] for name in names)


def _fields(entry: TreeEntry) -> dict[str, str]:
    return {"size": f"{entry.size} bytes", "mode": f"mode {entry.mode:o}", "owner": f"owner {_owner(entry)}"}


def _text(entry: TreeEntry) -> str:
    return f"-> {entry.text}" if entry.kind == "link" else f"sha256 {entry.text[:DIGITS] or 'unreadable'}"


def _owner(entry: TreeEntry) -> str:
    return f"{entry.uid}:{entry.gid}"
