"""What is to be done with each model file, and why. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from gpuhost.catalog.types import Model
from gpuhost.models.facts import FileStat, ModelsReading
from gpuhost.models.former import ManifestEntry, ModelFile
from gpuhost.plan.change import Change, Resource
from hostside import hub_cache
from hostside.protocol import ModelAction

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class PlannedFile:
    """One file with its action, and why."""

    file: ModelFile
    reason: str

    def change(self) -> Change:
        """As a plan shows it."""
        return Change("models", Resource("model", self.file.name), self.file.action, self.reason)


def destination(model: Model) -> str:
    """Where a model lies below the models folder: `<folder>/<file name>`."""
    return f"{model.folder}/{PurePosixPath(model.file).name}"


def unpinned(models: Mapping[str, Model]) -> list[tuple[str, str]]:
    """(model, what is not checked) of those whose bytes are whatever the hub says."""
    return [
        (name, f"`{model.revision}` is no commit and there is no `sha256`: only compared with what the hub announces")
        for name, model in models.items()
        if model.sha256 is None and not _COMMIT.fullmatch(model.revision)
    ]


def reconcile(
    wanted: Mapping[str, Model], reading: ModelsReading, models_dir: str, cache_dir: str
) -> list[PlannedFile]:
    """The files with which something is to be done, in the order of `wanted`."""
    found = (_planned(name, model, reading, models_dir, cache_dir) for name, model in wanted.items())
    return [each for each in found if each]


def _planned(name: str, model: Model, reading: ModelsReading, models_dir: str, cache_dir: str) -> PlannedFile | None:
    entry = reading.manifest.models.get(name)
    if entry is None or (another := _another(model, entry)):
        return _unverified(name, model, reading, cache_dir, another if entry else "")
    if model.sha256 not in (None, entry.sha256):
        # Which bytes the revision has, the hub knows: it is asked before a byte is fetched.
        return _to(name, model, "fetch", "its sha256 is not the expected one")
    path = hub_cache.snapshot(cache_dir, model.repo, entry.commit, model.file)
    cached = reading.cached.get(path)
    if cached is None:
        return _to(name, model, "fetch", "it is gone from the cache")
    if entry.path != path:
        return _to(name, model, "fetch", f"it was verified in another cache, as {entry.path}")
    if cached != FileStat(entry.size, entry.mtime_ns, entry.inode):
        return _to(name, model, "verify", "the file changed since it was verified", entry.commit, entry)
    why = _unlinked(model, entry, cached, reading.links, models_dir)
    return _to(name, model, "link", why, entry.commit, entry) if why else None


def _another(model: Model, entry: ManifestEntry) -> str:
    """The fields in which the manifest speaks of another file than the wanted one; "" when in none."""
    pairs = {
        "repo": (model.repo, entry.repo),
        "file": (model.file, entry.file),
        "revision": (model.revision, entry.revision),
    }
    return ", ".join(field for field, (wanted, fetched) in pairs.items() if wanted != fetched)


def _unverified(name: str, model: Model, reading: ModelsReading, cache_dir: str, another: str) -> PlannedFile:
    """A file of which the manifest says nothing: hashed when the cache has it, else fetched."""
    path = hub_cache.snapshot(cache_dir, model.repo, model.revision, model.file)
    if _COMMIT.fullmatch(model.revision) and path in reading.cached:
        return _to(name, model, "verify", "it is in the cache and was never verified", model.revision)
    if another:
        return _to(name, model, "fetch", f"another {another} was fetched")
    in_cache = any(_is_of(seen, model, cache_dir) for seen in reading.cached)
    # A branch: only the hub knows which commit it is. What the cache has of it is not downloaded again.
    return _to(name, model, "fetch", "it was never verified" if in_cache else "it is not there")


def _is_of(path: str, model: Model, cache_dir: str) -> bool:
    return path.startswith(hub_cache.snapshots(cache_dir, model.repo) + "/") and path.endswith(f"/{model.file}")


def _unlinked(
    model: Model, entry: ManifestEntry, cached: FileStat, links: Mapping[str, FileStat | None], models_dir: str
) -> str | None:
    """Why the models folder must get its link to a file that is right; None when it has it."""
    dest = destination(model)
    path = f"{models_dir}/{dest}"
    if path not in links:
        return "it is not in the models folder"
    if links[path] != cached:
        return "another file is in its place in the models folder"
    return None if entry.dest == dest else f"it was recorded as {entry.dest}"


def _to(
    name: str,
    model: Model,
    action: ModelAction,
    why: str,
    commit: str | None = None,
    verified: ManifestEntry | None = None,
) -> PlannedFile:
    return PlannedFile(
        ModelFile(
            name=name,
            repo=model.repo,
            revision=model.revision,
            file=model.file,
            dest=destination(model),
            sha256=model.sha256 or (verified.sha256 if verified else None),
            action=action,
            commit=commit,
            size=verified.size if verified else None,
            gated=model.gated,
        ),
        why,
    )
