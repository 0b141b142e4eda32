"""Compares what lies in a folder with the manifest of what was made there. Writes nothing. Standard library only.

    python3 -I -B -c "$(cat look.py)" FOLDER MANIFEST

The control side sends this text along with its question: what looks must not depend on the programs of a host, which
may themselves be missing or changed. So it imports nothing of the package; what it prints, one line of JSON, is a
`TreeSeen`.

The manifest is one JSON file in a folder of root: {"version", "folder", "state", "entries": path -> Entry}. A file
whose stat is the recorded one is not read. One whose stat differs is read only when its size is the recorded one, so
that nothing larger than what was made is ever read. Who owns the folder may put anything there at any moment: no link
is followed, no other filesystem entered, no FIFO waited for, and what was added is counted to an end.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

VERSION = 1
SHOWN = 20  # differences that are told one by one
ADDED_MAX = 10_000  # so many more than were recorded, and the rest is not looked at
ENTRIES_MAX = 1_000_000
MANIFEST_BYTES_MAX = 512 * 2**20
DEPTH_MAX = 100  # of folders; each level holds two descriptors open
CHUNK_BYTES = 2**20
OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Entry(NamedTuple):
    """One thing in a folder. `kind`: file, folder, link, mount (a folder of another filesystem) or other; `text`: the
    sha256 of a file ("" = not read), the target of a link. Size, times and inode are those of files, else 0."""

    kind: str
    mode: int
    uid: int
    gid: int
    text: str
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0

    def is_made_like(self, other: Entry) -> bool:
        """All but the bytes and what a copy with the same bytes has of its own."""
        texts = self.kind == "file" or self.text == other.text
        return texts and self[:4] == other[:4] and self.size == other.size

    def is_untouched(self, other: Entry) -> bool:
        """Made alike, and the same file, written at the same time."""
        return self.is_made_like(other) and self[6:] == other[6:]


class Found(NamedTuple):
    """`path` below the folder; `name` in the open folder `parent`, while the walk stands there; `blocks`: of 512 bytes
    on the disk."""

    path: str
    parent: int
    name: str
    entry: Entry
    blocks: int


def walk(folder: int) -> Iterator[Found]:
    """Everything below an open folder, a folder before what it holds."""
    return _walk(folder, os.fstat(folder).st_dev, "", 1)


def _walk(folder: int, device: int, below: str, depth: int) -> Iterator[Found]:
    with os.scandir(folder) as listing:
        for each in listing:
            try:
                seen = each.stat(follow_symlinks=False)
                entry = _entry(folder, each.name, seen, device)
            except OSError:  # it went this moment
                continue
            yield Found(below + each.name, folder, each.name, entry, seen.st_blocks)
            if entry.kind != "folder" or depth == DEPTH_MAX:
                continue
            try:
                inner = os.open(each.name, OPEN | os.O_DIRECTORY, dir_fd=folder)
            except OSError:
                continue
            try:
                yield from _walk(inner, device, f"{below}{each.name}/", depth + 1)
            finally:
                os.close(inner)


def _entry(parent: int, name: str, seen: os.stat_result, device: int) -> Entry:
    owned = (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid)
    if stat.S_ISREG(seen.st_mode):
        return Entry("file", *owned, "", seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino)
    if stat.S_ISLNK(seen.st_mode):
        return Entry("link", *owned, os.readlink(name, dir_fd=parent))
    if stat.S_ISDIR(seen.st_mode):
        return Entry("folder" if seen.st_dev == device else "mount", *owned, "")
    return Entry("other", *owned, "")


def sha256(found: Found) -> str | None:
    """The hash of a file that the walk stands at; None when it changed since, or cannot be read."""
    try:
        file = os.open(found.name, OPEN, dir_fd=found.parent)
    except OSError:
        return None
    try:
        before, digest = os.fstat(file), hashlib.sha256()
        left = found.entry.size
        if not stat.S_ISREG(before.st_mode):
            return None
        while left > 0 and (chunk := os.read(file, min(CHUNK_BYTES, left))):
            digest.update(chunk)
            left -= len(chunk)
        after = os.fstat(file)
    except OSError:
        return None
    finally:
        os.close(file)
    seen = {(each.st_size, each.st_mtime_ns, each.st_ctime_ns, each.st_ino) for each in (before, after)}
    return digest.hexdigest() if seen == {found.entry[5:]} else None


def load(manifest: str, folder: str) -> tuple[str, dict[str, Entry]]:
    """(state, entries) of a manifest: `unfinished` while its folder is being made, `recorded` afterwards, `unknown`
    when there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        with open(manifest, "rb") as file:  # noqa: PTH123  (this text travels: it imports what it must)
            text = file.read(MANIFEST_BYTES_MAX)
        read = json.loads(text)
        if (read["version"], read["folder"]) == (VERSION, folder) and read["state"] in ("unfinished", "recorded"):
            return read["state"], {path: Entry(*row) for path, row in read["entries"].items()}
    return "unknown", {}


def look(folder: str, manifest: str) -> dict[str, Any]:
    """What is there, as a `TreeSeen`."""
    state, entries = load(manifest, folder)
    top = os.open(folder, OPEN | os.O_DIRECTORY)
    try:
        if state == "recorded":
            return {"state": state, **_compared(top, entries)}
        blocks = sum(found.blocks for found in itertools.islice(walk(top), ENTRIES_MAX))
        return {"state": state, **_answer(blocks, {}, [])}
    finally:
        os.close(top)


def _compared(top: int, entries: dict[str, Entry]) -> dict[str, Any]:
    left, blocks = dict(entries), 0
    differing: dict[str, tuple[Entry | None, Entry | None]] = {}
    touched: list[str] = []
    for number, found in enumerate(walk(top)):
        if number >= len(entries) + ADDED_MAX:
            left.clear()  # whether they are gone is not known
            break
        blocks += found.blocks
        recorded = left.pop(found.path, None)
        if recorded is None or not found.entry.is_made_like(recorded):
            differing[found.path] = (recorded, found.entry)
        elif not found.entry.is_untouched(recorded):
            text = sha256(found)
            if text == recorded.text:
                touched.append(found.path)
            else:
                differing[found.path] = (recorded, found.entry._replace(text=text or ""))
    differing.update({path: (recorded, None) for path, recorded in left.items()})
    return _answer(blocks, differing, touched)


def _answer(blocks: int, differing: dict[str, tuple[Entry | None, Entry | None]], touched: list[str]) -> dict[str, Any]:
    # What changed says more than what was added.
    order = sorted(differing, key=lambda path: (differing[path][0] is None, path))
    return {
        "disk_bytes": blocks * 512,
        "differing": len(differing),
        "first": [
            {"path": path, "recorded": _told(differing[path][0]), "found": _told(differing[path][1])}
            for path in order[:SHOWN]
        ],
        "touched": len(touched),
        "first_touched": min(touched, default=""),
    }


def _told(entry: Entry | None) -> dict[str, Any] | None:
    return None if entry is None else dict(zip(("kind", "mode", "uid", "gid", "text", "size"), entry, strict=False))


if __name__ == "__main__":
    print(json.dumps(look(*sys.argv[1:])))
