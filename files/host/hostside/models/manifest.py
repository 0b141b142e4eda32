"""The manifest on disk: what was fetched and verified, so that the control side asks nobody (`protocol.Manifest`)."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from hostside.protocol import Manifest
from hostside.wire import WireError, from_json


def load(path: Path) -> Manifest:
    """A manifest that is missing or unreadable is empty: its files are then verified again."""
    try:
        return from_json(Manifest, path.read_bytes())
    except (FileNotFoundError, WireError):
        return Manifest()


def save(path: Path, manifest: Manifest) -> None:
    """Writes the whole manifest, or, when killed, nothing of it."""
    write_atomically(path, json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n")


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
