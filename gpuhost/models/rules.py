"""Which models must be fetched, and why. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from gpuhost.catalog.types import Model
from gpuhost.models.facts import ModelsReading
from gpuhost.plan.change import Change, Resource


def destination(model: Model) -> str:
    """Where a model lies below the models folder: `<folder>/<file name>`."""
    return f"{model.folder}/{PurePosixPath(model.file).name}"


def reason(model: Model, entry: Mapping[str, Any] | None, stat: tuple[int, int, int] | None) -> str | None:
    """Why a model must be fetched or verified again; None when it is the verified file."""
    if entry is None or stat is None:
        return "not there" if stat is None else "never verified"
    asked = {"repo": model.repo, "file": model.file, "revision": model.revision, "dest": destination(model)}
    differing = [key for key, value in asked.items() if entry.get(key) != value]
    if differing:
        return f"fetched from another {', '.join(differing)}"
    if model.sha256 and entry.get("sha256") != model.sha256:
        return "its sha256 is not the expected one"
    if stat != (entry.get("size"), entry.get("mtime_ns"), entry.get("inode")):
        return "the file changed since it was verified"
    return None


def reconcile(wanted: Mapping[str, Model], reading: ModelsReading, root: str) -> list[Change]:
    """The models to fetch."""
    changes = []
    for name, model in wanted.items():
        why = reason(model, reading.entries.get(name), reading.stats.get(f"{root}/{destination(model)}"))
        if why:
            changes.append(Change("models", Resource("model", name), "fetch", why))
    return changes
