"""Writes the manifest of a folder that we made, and puts a folder aside that is not any more what was made there.

    python -m hostside.trees begin|record|set-aside < request

The request is a `TreeRequest`. `begin`: from now on the folder is being made; a run that finds this knows that
an earlier one was killed. `record`: reads all of the folder and writes down what it holds; with a manifest, it may hold
nothing else than that says, and only what was touched is read again. `set-aside`: the folder gets another name beside
it, and an empty one takes its place; nothing is deleted.

Killed between any two of its steps, it leaves a folder that counts as not finished or as not known, never as right.
Exit: 0; 1 not done: one sentence and a hint on stderr.
"""

from __future__ import annotations

import itertools
import json
import os
import stat
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

from hostside.protocol.trees import TreeRequest
from hostside.trees import look
from hostside.trees.look import Entry, Found
from hostside.wire import MAX_BYTES, WireError, from_json, printable

# A file that is mostly a hole: hashing it would take hours and prove nothing.
HOLE_BYTES = 2**30
HOLE_FACTOR = 16


class Refusal(Exception):
    """`str()` is one sentence; `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def begin(request: TreeRequest) -> None:
    """The manifest says that the folder is being made."""
    _write(request, "unfinished", {})


def record(request: TreeRequest) -> None:
    """The manifest says what the folder holds. Raises `Refusal` when that is not what it said before."""
    state, known = look.load(request.manifest, request.folder)
    entries: dict[str, Entry] = {}
    top = _opened(request)
    try:
        for found in look.walk(top):
            if len(entries) == look.ENTRIES_MAX:
                raise Refusal(f"{request.folder} holds more than {look.ENTRIES_MAX} files", "look at what made so many")
            entries[found.path] = _recorded(found, known.get(found.path))
    finally:
        os.close(top)
    if state == "recorded" and (other := _another(known, entries)):
        raise _changing(other)
    _write(request, "recorded", entries)


def set_aside(request: TreeRequest) -> None:
    """The manifest goes first: without it, what is still there counts as not known."""
    folder, manifest = Path(request.folder), Path(request.manifest)
    manifest.unlink(missing_ok=True)
    _sync(manifest.parent)
    was = folder.lstat()
    top = _opened(request)
    try:
        size_mb = sum(found.blocks for found in itertools.islice(look.walk(top), look.ENTRIES_MAX)) * 512 / 1e6
    finally:
        os.close(top)
    aside = _beside(folder)
    # A rename, or a copy and a removal where the filesystem cannot rename a folder (a lower layer of an overlayfs).
    moved = subprocess.run(["mv", "-T", "--", folder, aside], capture_output=True, text=True, check=False)
    if moved.returncode != 0:
        raise Refusal(f"{folder} cannot be set aside: {moved.stderr.strip()}", "move it away yourself, then run again")
    folder.mkdir(mode=0o700)
    os.chown(folder, was.st_uid, was.st_gid)
    folder.chmod(stat.S_IMODE(was.st_mode))
    _sync(folder.parent)
    print(f"note: what was in {folder} is kept as {aside} ({size_mb:.0f} MB); it is yours to look at and to remove")


def _recorded(found: Found, known: Entry | None) -> Entry:
    if found.entry.kind != "file":
        return found.entry
    if known is not None and found.entry.is_untouched(known):
        return known
    if found.entry.size > HOLE_BYTES + HOLE_FACTOR * 512 * found.blocks:
        what = f"{found.path} has {found.entry.size} bytes, of which {512 * found.blocks} are on the disk"
        raise Refusal(what, "it is no file of an install: look at what made it")
    text = look.sha256(found)
    if text is None:
        raise _changing(found.path)
    return found.entry._replace(text=text)


def _another(known: dict[str, Entry], entries: dict[str, Entry]) -> str | None:
    """A path that is not what it was, but for its times and inode; None when there is none."""
    for path in sorted(known.keys() | entries.keys()):
        was, now = known.get(path), entries.get(path)
        if was is None or now is None or not now.is_made_like(was) or now.text != was.text:
            return path
    return None


def _changing(path: str) -> Refusal:
    return Refusal(f"{path} changes while it is read", "find out who writes there, then run again")


def _opened(request: TreeRequest) -> int:
    return os.open(request.folder, look.OPEN | os.O_DIRECTORY)


def _write(request: TreeRequest, state: str, entries: dict[str, Entry]) -> None:
    """A reader sees the old manifest or the new one, also after a loss of power."""
    path = Path(request.manifest)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    with new.open("w") as file:
        json.dump({"version": look.VERSION, "folder": request.folder, "state": state, "entries": entries}, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _beside(path: Path) -> Path:
    """A free name beside a folder."""
    stem = f"{path.name}.replaced-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 100))]
    return next(free for name in names if not os.path.lexists(free := path.with_name(name)))


ACTIONS = {"begin": begin, "record": record, "set-aside": set_aside}


def main(arguments: list[str]) -> int:
    os.umask(0o022)
    try:
        ACTIONS[arguments[0]](from_json(TreeRequest, sys.stdin.buffer.read(MAX_BYTES + 1)))
    except WireError as error:
        what, hint = f"the request cannot be read: {error}", "`gpuhost apply` ships the programs that fit this gpuhost"
    except Refusal as error:
        what, hint = str(error), error.hint
    except OSError as error:
        what, hint = f"{error.filename}: {error.strerror}", "check the disk and who may write there, then run again"
    else:
        return 0
    print(f"error: {printable(what)}\nhint: {hint}", file=sys.stderr)
    return 1
