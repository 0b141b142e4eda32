"""The manifest on disk: what was fetched and verified, so that the control side asks nobody (`Manifest`)."""

from __future__ import annotations

import os
from pathlib import Path

from hostside.protocol.models import Manifest
from hostside.regular import UnusableFile, read_regular
from hostside.wire import MAX_BYTES, WireError, from_json, to_json


def load(path: Path) -> Manifest:
    """A manifest that is missing or unreadable is empty: its files are then verified again."""
    try:
        return from_json(Manifest, read_regular(path, MAX_BYTES)[0])
    except (FileNotFoundError, UnusableFile, WireError):
        return Manifest()


def save(path: Path, manifest: Manifest) -> None:
    """Writes the whole manifest, or, when killed, nothing of it."""
    write_atomically(path, to_json(manifest) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """A reader sees the old text or the new one, also after a loss of power. One writer at a time: the fetch's lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # It holds no secret and other programs read it.
        new.chmod(0o644)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
