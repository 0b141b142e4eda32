"""The manifest: what was fetched, verified and where it lies, so that a second run asks nobody.

    {"version": 1, "models": {NAME: {"repo", "revision", "file", "dest", "commit", "path", "size", "mtime_ns",
                                     "inode", "sha256"}}}

`path` is the file in the hub cache (through its snapshot link), `dest` the same file's name under the models
folder, `sha256` what its bytes had when they were last read. Size, mtime and inode tell whether they still do.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

VERSION = 1


@dataclass(frozen=True)
class Entry:
    """One fetched model."""

    repo: str
    revision: str
    file: str
    dest: str
    commit: str
    path: str
    size: int
    mtime_ns: int
    inode: int
    sha256: str

    def is_unchanged(self) -> bool:
        """Does the file in the cache still have the stat that it was hashed with?"""
        try:
            stat = Path(self.path).stat()
        except FileNotFoundError:
            return False
        return (stat.st_size, stat.st_mtime_ns, stat.st_ino) == (self.size, self.mtime_ns, self.inode)


def load(path: Path) -> dict[str, Entry]:
    """Name -> entry. A manifest that is missing or unreadable is empty: files are then hashed again."""
    try:
        document = json.loads(path.read_text())
        if document["version"] != VERSION:
            return {}
        return {name: Entry(**fields) for name, fields in document["models"].items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def save(path: Path, entries: dict[str, Entry]) -> None:
    """Writes the whole manifest, or, when killed, nothing of it."""
    models = {name: asdict(entry) for name, entry in sorted(entries.items())}
    write_atomically(path, json.dumps({"version": VERSION, "models": models}, indent=1) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """A reader sees the old text or the new one, also after a loss of power."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            # The temporary file was made 0600; the manifest holds no secret and other programs read it.
            os.fchmod(file.fileno(), 0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink()
            raise
